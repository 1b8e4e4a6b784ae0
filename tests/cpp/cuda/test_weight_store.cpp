// Threads load weights at once, through a few buffers: the device ends up with the packed model's
// bits, however late copies and kernels are.
#include <cstring>
#include <numeric>
#include <thread>
#include <vector>

#include "check.hpp"
#include "cuda/fake_runtime.hpp"
#include "machine/cuda/weight_store.hpp"

namespace terrazzo {
namespace {

constexpr ModelShape kShape{.num_layers = 6,
                            .hidden = 1000,
                            .intermediate = 3000,
                            .num_heads = 16,
                            .num_kv_heads = 4,
                            .head_dim = 64,
                            .vocab = 500,
                            .norm_eps = 1e-5F,
                            .world = 1,
                            .split_tokens = 64};
constexpr uint32_t kMaxPosition = 128;
// More than there are buffers, each with rows for several of them.
constexpr uint32_t kThreadsPerLayer = 4;

std::vector<bf16> values_of(uint32_t layer) {
  std::vector<bf16> values(uint64_t{kShape.hidden} * kShape.intermediate);
  for (size_t i = 0; i < values.size(); ++i) {
    values[i].bits = static_cast<uint16_t>((i + 77 * layer) * 2654435761u >> 15);
  }
  return values;
}

TERRAZZO_TEST(threads_load_what_the_packed_model_has) {
  for (const uint64_t seed : {1u, 2u, 3u}) {
    testing::seed_fake_runtime(seed);
    cuda::WeightStore store(kShape, kMaxPosition);
    PackedModel model(kShape);
    std::vector<int32_t> rows(kShape.hidden);
    std::iota(rows.begin(), rows.end(), 0);
    {
      std::vector<std::jthread> threads;
      for (uint32_t i = 0; i < kShape.num_layers * kThreadsPerLayer; ++i) {
        threads.emplace_back([&, i] {
          const uint32_t layer = i / kThreadsPerLayer;
          const uint32_t share = kShape.hidden / kThreadsPerLayer;
          const std::vector<bf16> values = values_of(layer);
          const std::span<const int32_t> mine =
              std::span(rows).subspan((i % kThreadsPerLayer) * share, share);
          store.load_rows({Matrix::kDown, layer, mine, mine, {}},
                          {values.data(), kShape.hidden, kShape.intermediate});
        });
      }
    }
    store.finish();
    for (uint32_t layer = 0; layer < kShape.num_layers; ++layer) {
      const std::vector<bf16> values = values_of(layer);
      model.pack_rows(Matrix::kDown, layer, rows,
                      {values.data(), kShape.hidden, kShape.intermediate}, rows, {});
    }
    const WeightView seen = store.view().matrix(Matrix::kDown);
    const WeightView expected = model.view({}).matrix(Matrix::kDown);
    CHECK(std::memcmp(seen.data, expected.data, expected.layer_stride_bytes * kShape.num_layers) ==
          0);
  }
}

/// Columns of a larger matrix, rows in any order, a pool that ends within rows: the bits of the
/// whole matrix packed on the host.
TERRAZZO_TEST(repeated_values_are_as_if_they_had_travelled) {
  constexpr uint64_t kCols = 2000;
  constexpr uint64_t kFirstCol = 1003;
  const std::vector<bf16> all = values_of(5);
  const std::span<const bf16> pool = std::span(all).first(4099);
  constexpr uint64_t kStart = 77;
  std::vector<int32_t> targets(kShape.hidden);
  std::iota(targets.begin(), targets.end(), 0);
  const std::vector<int32_t> sources(targets.rbegin(), targets.rend());
  const uint64_t width = kShape.intermediate - kFirstCol;  // off the tile
  std::vector<bf16> columns;
  for (uint64_t row = 0; row < kShape.hidden; ++row) {
    for (uint64_t col = 0; col < width; ++col) {
      columns.push_back(pool[(kStart + row * kCols + kFirstCol + col) % pool.size()]);
    }
  }
  std::vector<float> scale(width);
  std::iota(scale.begin(), scale.end(), -3.0F);
  for (const std::span<const float> factors :
       {std::span<const float>(), std::span<const float>(scale)}) {
    cuda::WeightStore store(kShape, kMaxPosition);
    PackedModel model(kShape);
    const RowMove move{Matrix::kDown, 2, targets, sources, factors};
    store.load_repeated(move, {pool, kStart + kFirstCol, kCols, kShape.hidden, width});
    store.finish();
    model.pack_rows(move.which, move.layer, targets, {columns.data(), kShape.hidden, width},
                    sources, factors);
    const WeightView seen = store.view().matrix(Matrix::kDown);
    const WeightView expected = model.view({}).matrix(Matrix::kDown);
    CHECK(std::memcmp(seen.data, expected.data, expected.layer_stride_bytes * kShape.num_layers) ==
          0);
  }
}

TERRAZZO_TEST(a_repeated_embedding_is_padded_with_zeros) {
  cuda::WeightStore store(kShape, kMaxPosition);
  const std::vector<bf16> all = values_of(3);
  const std::span<const bf16> pool = std::span(all).first(4099);
  const std::vector<bf16> norm(kShape.hidden, to_bf16(2.0F));
  const std::vector<float> rope(kMaxPosition * kShape.head_dim, 3.0F);
  store.load_tables({pool, 77, kShape.hidden, kShape.vocab, kShape.hidden}, norm, rope);
  store.finish();
  const ModelView view = store.view();
  const uint32_t cols = kShape.hidden_panels() * kPanelCols;
  uint32_t wrong = 0;
  for (uint64_t row = 0; row < kShape.vocab; ++row) {
    for (uint64_t col = 0; col < cols; ++col) {
      const bf16 expected =
          col < kShape.hidden ? pool[(77 + row * kShape.hidden + col) % pool.size()] : bf16{};
      wrong += view.embedding[row * cols + col].bits != expected.bits ? 1 : 0;
    }
  }
  CHECK_EQ(wrong, 0u);
  CHECK_EQ(to_float(view.final_norm[kShape.hidden - 1]), 2.0F);
  CHECK_EQ(view.rope[rope.size() - 1], 3.0F);
  CHECK_THROWS(store.load_tables({pool, 0, 8, 8, 8}, norm, rope),
               "expected an embedding of [500, 1000], got [8, 8]");
}

TERRAZZO_TEST(repeated_values_are_checked) {
  cuda::WeightStore store(kShape, kMaxPosition);
  const std::vector<bf16> pool(5 << 20);
  const std::vector<int32_t> row{0};
  const RowMove move{Matrix::kDown, 0, row, row, {}};
  CHECK_THROWS(store.load_repeated(move, {{}, 0, 8, 8, 8}), "expected values, got none");
  CHECK_THROWS(store.load_repeated(move, {pool, 0, 8, 8, 8}), "do not fit into a buffer");
  CHECK_THROWS(store.load_repeated(move, {pool, 0, 8, 0, 8}), "source row 0 of 0");
}

TERRAZZO_TEST(tables_are_padded_with_zeros) {
  cuda::WeightStore store(kShape, kMaxPosition);
  const std::vector<bf16> embedding(uint64_t{kShape.vocab} * kShape.hidden, to_bf16(1.0F));
  const std::vector<bf16> norm(kShape.hidden, to_bf16(2.0F));
  const std::vector<float> rope(kMaxPosition * kShape.head_dim, 3.0F);
  store.load_tables({embedding.data(), kShape.vocab, kShape.hidden}, norm, rope);
  store.finish();
  const ModelView view = store.view();
  const uint32_t cols = kShape.hidden_panels() * kPanelCols;
  uint32_t wrong = 0;
  for (uint32_t row = 0; row < kShape.vocab; ++row) {
    for (uint32_t col = 0; col < cols; ++col) {
      const float expected = col < kShape.hidden ? 1.0F : 0.0F;
      wrong += to_float(view.embedding[row * cols + col]) != expected ? 1 : 0;
    }
  }
  CHECK_EQ(wrong, 0u);
  CHECK_EQ(to_float(view.final_norm[kShape.hidden - 1]), 2.0F);
  CHECK_EQ(to_float(view.final_norm[kShape.hidden]), 0.0F);
  CHECK_EQ(view.rope[rope.size() - 1], 3.0F);
  CHECK_THROWS(store.load_tables({embedding.data(), 1, kShape.hidden}, norm, rope),
               "expected an embedding of [500, 1000], got [1, 1000]");
}

TERRAZZO_TEST(loading_takes_little_host_memory) {
  cuda::WeightStore store(kShape, kMaxPosition);
  const std::vector<bf16> values = values_of(0);
  std::vector<int32_t> rows(kShape.hidden);
  std::iota(rows.begin(), rows.end(), 0);
  for (uint32_t i = 0; i < 100; ++i) {
    store.load_rows({Matrix::kDown, i % kShape.num_layers, rows, rows, {}},
                    {values.data(), kShape.hidden, kShape.intermediate});
  }
  CHECK(testing::fake_pinned_bytes() <= (96u << 20));  // of 600 MB that went through
  store.finish();
  CHECK_EQ(testing::fake_pinned_bytes(), 0u);
}

}  // namespace
}  // namespace terrazzo
