// Small models with random weights for tests of the host machine.
#pragma once

#include <cmath>
#include <numeric>
#include <vector>

#include "lower/steps.hpp"
#include "machine/host/host_machine.hpp"
#include "machine/packed_model.hpp"

namespace terrazzo::testing {

/// Random weights in the tiles of every GPU. Machines that it is attached to must not outlive it.
class TestModel {
 public:
  TestModel(const ModelShape& shape, uint32_t max_position, uint64_t seed)
      : shape_(shape), random_(seed) {
    for (uint32_t gpu = 0; gpu < shape.world; ++gpu) {
      packed_.emplace_back(shape);
    }
    for (uint32_t layer = 0; layer < shape.num_layers; ++layer) {
      pack_layer(layer);
    }
    pack_tables(max_position);
  }

  const ModelShape& shape() const { return shape_; }
  const PackedModel& packed(uint32_t gpu) const { return packed_[gpu]; }
  const SharedTables& tables() const { return tables_; }
  /// O's whole weight: [hidden, heads * head dimension] row-major.
  const std::vector<bf16>& o(uint32_t layer) const { return o_[layer]; }

  void attach(host::HostMachine& machine) const {
    for (uint32_t gpu = 0; gpu < shape_.world; ++gpu) {
      machine.set_model(gpu, packed_[gpu].view(tables_));
    }
  }

 private:
  using Rows = std::vector<int32_t>;

  static Rows first_rows(uint32_t count) {
    Rows rows(count);
    std::iota(rows.begin(), rows.end(), 0);
    return rows;
  }

  /// Uniform in [-1, 1).
  float uniform() { return static_cast<float>(static_cast<int32_t>(random_())) * 0x1p-31F; }

  std::vector<bf16> random_matrix(uint64_t rows, uint64_t cols) {
    const float scale = std::sqrt(3.0F / static_cast<float>(cols));
    std::vector<bf16> out(rows * cols);
    for (bf16& value : out) {
      value = to_bf16(scale * uniform());
    }
    return out;
  }

  void pack(uint32_t gpu, Matrix which, uint32_t layer, const Rows& targets, uint32_t cols) {
    const std::vector<bf16> values = random_matrix(targets.size(), cols);
    packed_[gpu].pack_rows(which, layer, targets, {values.data(), targets.size(), cols},
                           first_rows(static_cast<uint32_t>(targets.size())), {});
  }

  /// What is left for `gpu` of `total` columns dealt in shares of `panels` panels.
  static uint32_t share(uint32_t gpu, uint32_t panels, uint32_t total) {
    const uint32_t begin = std::min(gpu * panels * kPanelCols, total);
    return std::min(panels * kPanelCols, total - begin);
  }

  void pack_layer(uint32_t layer) {
    const uint32_t o_cols = shape_.num_heads * shape_.head_dim;
    o_.push_back(random_matrix(shape_.hidden, o_cols));
    for (uint32_t gpu = 0; gpu < shape_.world; ++gpu) {
      pack(gpu, Matrix::kQkv, layer, first_rows(shape_.qkv_panels() * kPanelCols), shape_.hidden);
      pack_o(gpu, layer, o_cols);
      const uint32_t columns = share(gpu, shape_.act_panels(), shape_.intermediate);
      if (columns > 0) {
        Rows gate_up;
        for (const uint32_t half : {0U, kPairRun}) {
          for (uint32_t i = 0; i < columns; ++i) {
            gate_up.push_back(
                static_cast<int32_t>(i / kPairRun * 2 * kPairRun + half + i % kPairRun));
          }
        }
        pack(gpu, Matrix::kGateUp, layer, gate_up, shape_.hidden);
        pack(gpu, Matrix::kDown, layer, first_rows(shape_.hidden), columns);
      }
    }
  }

  /// The whole matrix, or the input columns of the GPU's heads.
  void pack_o(uint32_t gpu, uint32_t layer, uint32_t cols) {
    const uint32_t own = shape_.o_sharded ? cols / shape_.world : cols;
    const uint32_t first = shape_.o_sharded ? gpu * own : 0;
    std::vector<bf16> values;
    for (uint64_t row = 0; row < shape_.hidden; ++row) {
      const auto begin = o_[layer].begin() + static_cast<int64_t>(row * cols + first);
      values.insert(values.end(), begin, begin + own);
    }
    packed_[gpu].pack_rows(Matrix::kO, layer, first_rows(shape_.hidden),
                           {values.data(), shape_.hidden, own}, first_rows(shape_.hidden), {});
  }

  void pack_tables(uint32_t max_position) {
    const uint32_t width = shape_.hidden_panels() * kPanelCols;
    tables_.embedding.resize(uint64_t{shape_.vocab} * width);
    tables_.final_norm.resize(width);
    for (uint32_t col = 0; col < shape_.hidden; ++col) {
      tables_.final_norm[col] = to_bf16(1.0F + 0.25F * uniform());
      for (uint64_t id = 0; id < shape_.vocab; ++id) {
        tables_.embedding[id * width + col] = to_bf16(uniform());
      }
    }
    for (uint32_t gpu = 0; gpu < shape_.world; ++gpu) {
      const uint32_t rows = share(gpu, shape_.vocab_panels(), shape_.vocab);
      if (rows > 0) {
        pack(gpu, Matrix::kLmHead, 0, first_rows(rows), shape_.hidden);
      }
    }
    const uint32_t half = shape_.head_dim / 2;
    for (uint32_t position = 0; position < max_position; ++position) {
      for (const bool sine : {false, true}) {
        for (uint32_t i = 0; i < half; ++i) {
          const double angle =
              position * std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
          tables_.rope.push_back(static_cast<float>(sine ? std::sin(angle) : std::cos(angle)));
        }
      }
    }
  }

  ModelShape shape_;
  std::mt19937_64 random_;
  std::vector<PackedModel> packed_;
  std::vector<std::vector<bf16>> o_;  // [layer]
  SharedTables tables_;
};

/// Tiny: a checked step takes some 10 ms. Sizes off the tile, all head dimensions and group sizes.
inline ModelShape tiny_shape(Random& random, uint32_t world) {
  const uint32_t kv_heads = world * (world <= 2 ? random.pick({1U, 2U}) : 1U);
  const uint32_t group = random.pick({1U, 2U, 3U, 4U, 8U});
  return {.num_layers = random.pick({1U, 2U}),
          .hidden = random.pick({64U, 72U, 136U, 200U}),
          .intermediate = random.pick({40U, 100U, 192U}),
          .num_heads = kv_heads * group,
          .num_kv_heads = kv_heads,
          .head_dim = group * kv_heads > 16 ? 64U : random.pick({64U, 128U}),
          .vocab = random.pick({77U, 300U, 1100U}),
          .norm_eps = 1e-5F,
          .world = world,
          .split_tokens = random.pick({64U, 128U}),
          .o_sharded = world > 1 && random.chance(0.5)};
}

}  // namespace terrazzo::testing
