// Weights in tiles: every element is where the layout says, whichever way it got there.
#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "check.hpp"
#include "machine/packed_model.hpp"
#include "machine/row_blocks.hpp"

namespace terrazzo {
namespace {

// Hidden and intermediate sizes end within a chunk of 8 columns, within a panel and within a tile.
constexpr ModelShape kShape{.num_layers = 2,
                            .hidden = 333,
                            .intermediate = 500,
                            .num_heads = 4,
                            .num_kv_heads = 2,
                            .head_dim = 64,
                            .vocab = 777,
                            .norm_eps = 1e-5F,
                            .world = 1,
                            .split_tokens = 64};
constexpr uint32_t kLayer = 1;

struct Case {
  Matrix which;
  uint32_t layer;
  uint32_t rows;
  uint32_t cols;
  bool scaled;
};
constexpr Case kCases[] = {
    {Matrix::kQkv, kLayer, 512, 333, true},    // whole chunks and a ragged end, with factors
    {Matrix::kO, kLayer, 333, 256, false},     // whole panels
    {Matrix::kDown, kLayer, 333, 500, false},  // a ragged end without factors
    {Matrix::kLmHead, 0, 777, 333, true},
};

/// A source of random values (with infinity, NaN and a denormal among them) and a random order.
struct Source {
  explicit Source(const Case& c, uint64_t seed) : values(uint64_t{c.rows} * c.cols) {
    std::mt19937_64 random(seed);
    for (bf16& value : values) {
      value = to_bf16(static_cast<float>(static_cast<int32_t>(random())) * 0x1p-28F);
    }
    values[5] = {0x7f80};
    values[6] = {0x7fc1};
    values[7] = {0x0001};
    targets.resize(c.rows);
    std::iota(targets.begin(), targets.end(), 0);
    std::shuffle(targets.begin(), targets.end(), random);
    sources.resize(c.rows);
    std::iota(sources.begin(), sources.end(), 0);
    if (c.scaled) {
      for (uint32_t col = 0; col < c.cols; ++col) {
        scale.push_back(static_cast<float>(static_cast<int32_t>(random())) * 0x1p-30F);
      }
    }
  }

  RowMove move(const Case& c) const { return {c.which, c.layer, targets, sources, scale}; }

  std::vector<bf16> values;
  std::vector<int32_t> targets, sources;
  std::vector<float> scale;
};

bf16 element_at(const WeightView& view, uint32_t layer, uint32_t row, uint32_t col) {
  bf16 value{};
  std::memcpy(&value,
              view.at(layer, row / kPanelCols, col / kPanelCols) +
                  element_offset(row % kPanelCols, col % kPanelCols),
              sizeof(value));
  return value;
}

WeightView view_of(const PackedModel& model, Matrix which) { return model.view({}).matrix(which); }

TERRAZZO_TEST(elements_lie_where_the_layout_says) {
  for (const Case& c : kCases) {
    const Source source(c, 1);
    PackedModel model(kShape);
    model.pack_rows(c.which, c.layer, source.targets, {source.values.data(), c.rows, c.cols},
                    source.sources, source.scale);
    const WeightView view = view_of(model, c.which);
    std::vector<int32_t> source_of(uint64_t{view.panels} * kPanelCols, -1);
    for (uint32_t i = 0; i < c.rows; ++i) {
      source_of[static_cast<uint32_t>(source.targets[i])] = source.sources[i];
    }
    uint64_t wrong = 0;
    for (uint32_t layer = 0; layer < matrix_layers(kShape, c.which); ++layer) {
      for (uint32_t row = 0; row < source_of.size(); ++row) {
        for (uint32_t col = 0; col < view.k_panels * kPanelCols; ++col) {
          bf16 expected{0};
          if (layer == c.layer && source_of[row] >= 0 && col < c.cols) {
            expected = source.values[static_cast<uint64_t>(source_of[row]) * c.cols + col];
            if (c.scaled) {
              expected = to_bf16(to_float(expected) * source.scale[col]);
            }
          }
          wrong += element_at(view, layer, row, col).bits != expected.bits ? 1 : 0;
        }
      }
    }
    CHECK_EQ(wrong, 0u);
  }
}

/// What a device does with the blocks, done here.
TERRAZZO_TEST(blocks_give_the_same_bits) {
  for (const Case& c : kCases) {
    const Source source(c, 2);
    const SourceMatrix matrix{source.values.data(), c.rows, c.cols};
    PackedModel whole(kShape);
    whole.pack_rows(c.which, c.layer, source.targets, matrix, source.sources, source.scale);
    const WeightView expected = view_of(whole, c.which);
    const uint64_t bytes = expected.layer_stride_bytes * matrix_layers(kShape, c.which);
    for (const uint64_t capacity : {uint64_t{5000}, uint64_t{20'000}, uint64_t{10'000'000}}) {
      PackedModel in_blocks(kShape);
      const WeightView seen = view_of(in_blocks, c.which);
      std::vector<std::byte> buffer(capacity);
      const std::vector<MoveBlock> blocks = cut_into_blocks(source.move(c), matrix, capacity);
      CHECK_EQ(blocks.size() == 1, capacity == 10'000'000);
      for (const MoveBlock& block : blocks) {
        const uint64_t filled = fill_block(buffer.data(), block, source.move(c), matrix);
        CHECK(filled <= capacity);
        const RowBlock rows = block_at(buffer.data(), block, source.move(c), matrix, seen);
        for (uint32_t row = 0; row < rows.rows; ++row) {
          for (uint32_t chunk = 0; chunk < rows.chunks_per_row(); ++chunk) {
            pack_chunk(rows, row, chunk);
          }
        }
      }
      CHECK(std::memcmp(seen.data, expected.data, bytes) == 0);
    }
  }
}

TERRAZZO_TEST(one_source_row_may_go_to_many_places) {
  const std::vector<bf16> values(2 * 333, to_bf16(2.0F));
  std::vector<int32_t> targets(512);
  std::iota(targets.begin(), targets.end(), 0);
  std::vector<int32_t> sources(512);
  for (uint32_t i = 0; i < 512; ++i) {
    sources[i] = static_cast<int32_t>(i % 2);
  }
  const auto blocks =
      cut_into_blocks({Matrix::kQkv, 0, targets, sources, {}}, {values.data(), 2, 333}, 1 << 20);
  CHECK_EQ(blocks.size(), 1u);
  CHECK_EQ(blocks[0].num_rows, 2u);
  CHECK_EQ(blocks[0].moving.size(), 512u);
}

TERRAZZO_TEST(moves_out_of_range_are_refused) {
  PackedModel model(kShape);
  const std::vector<bf16> values(4 * 333);
  const SourceMatrix source{values.data(), 4, 333};
  const std::vector<int32_t> good{0};
  const std::vector<int32_t> too_far{512};
  const std::vector<int32_t> negative{-1};
  const std::vector<float> factors(3);
  const auto pack = [&](const std::vector<int32_t>& to, const std::vector<int32_t>& from,
                        uint32_t layer) {
    model.pack_rows(Matrix::kQkv, layer, to, source, from, {});
  };
  CHECK_THROWS(pack(too_far, good, 0), "target row 512 of 512");
  CHECK_THROWS(pack(negative, good, 0), "target row -1");
  CHECK_THROWS(pack(good, {4}, 0), "source row 4 of 4");
  CHECK_THROWS(pack(good, good, 2), "layer 2 of 2");
  CHECK_THROWS(pack(good, {0, 1}, 0), "1 target rows, 2 source rows");
  CHECK_THROWS(model.pack_rows(Matrix::kQkv, 0, good, source, good, factors),
               "expected 333 column factors, got 3");
  CHECK_THROWS(model.pack_rows(Matrix::kLmHead, 1, good, source, good, {}), "layer 1 of 1");
  CHECK_THROWS(cut_into_blocks({Matrix::kQkv, 0, good, good, {}}, source, 500),
               "a row of 333 columns does not fit");
}

}  // namespace
}  // namespace terrazzo
