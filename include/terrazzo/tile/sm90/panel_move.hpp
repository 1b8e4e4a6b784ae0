// Panels from slots and into stages.
#pragma once

#include "terrazzo/arch/sm90/machine.hpp"
#include "terrazzo/arch/sm90/matrix.hpp"
#include "terrazzo/tile/sm90/panel.hpp"

namespace terrazzo::sm90 {

/// panel[r] += bf16 row first_row + r of a swizzled tile in a slot.
template <class AnyPanel>
__device__ __forceinline__ void add_tile(AnyPanel& panel, const Slot& slot, uint32_t first_row,
                                         uint32_t rows) {
  for_each_element(panel, [&](float& value, uint32_t row, uint32_t column) TERRAZZO_LAMBDA {
    if (row < rows) {
      value += load_shared_bf16(slot.data + element_offset(first_row + row, column));
    }
  });
}

/// The same for rows in the accumulators' own order, 16 columns at a time.
__device__ __forceinline__ void add_tile(Panel& panel, const Slot& slot, uint32_t first_row,
                                         uint32_t) {
  const MatrixPlace place = matrix_place();
  const uint32_t row = first_row + place.row;
#pragma unroll
  for (uint32_t chunk = 0; chunk < kPanelCols / kChunkElems; chunk += 2) {
    uint32_t words[4];
    load_matrices(words, slot.data + chunk_offset(row, chunk + place.chunk));
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      float* const values = panel.values + (chunk + i / 2) * 4 + i % 2 * 2;
      values[0] += low_bf16(words[i]);
      values[1] += high_bf16(words[i]);
    }
  }
}

/// Rows from `first_row` of a slot that holds bf16 rows as memory has them, not swizzled.
__device__ __forceinline__ void load_plain_rows(Panel& out, const Slot& slot, uint32_t first_row,
                                                uint32_t rows) {
  for_each_element(out, [&](float& value, uint32_t row, uint32_t column) TERRAZZO_LAMBDA {
    value = row < rows ? load_shared_bf16(slot.data + (first_row + row) * kRowBytes +
                                          column * uint32_t{sizeof(bf16)})
                       : 0.0f;
  });
}

/// Rounds the panel into the stage. Row r is swizzled for row `target_row(r)` of the tile it will
/// land in.
template <class AnyPanel, class TargetRow>
__device__ __forceinline__ void store_panel(Stage& stage, AnyPanel panel, uint32_t rows,
                                            TargetRow target_row) {
  for_each_element(panel, [&](float& value, uint32_t row, uint32_t column) TERRAZZO_LAMBDA {
    if (row < rows) {
      const uint32_t swizzle = target_row(row) & 7u;
      store_shared_bf16(stage.tile + (row - swizzle) * kRowBytes + element_offset(swizzle, column),
                        value);
    }
  });
}

/// The same for rows in the accumulators' own order, 16 columns at a time. All 64 rows are written.
template <class TargetRow>
__device__ __forceinline__ void store_panel(Stage& stage, const Panel& panel, uint32_t rows,
                                            TargetRow target_row) {
  const MatrixPlace place = matrix_place();
  const uint32_t swizzle = place.row < rows ? target_row(place.row) & 7u : 0;
  const uint32_t line = stage.tile + place.row * kRowBytes;
#pragma unroll
  for (uint32_t chunk = 0; chunk < kPanelCols / kChunkElems; chunk += 2) {
    const uint32_t words[4] = {
        pack_bf16x2(panel.values[chunk * 4], panel.values[chunk * 4 + 1]),
        pack_bf16x2(panel.values[chunk * 4 + 2], panel.values[chunk * 4 + 3]),
        pack_bf16x2(panel.values[chunk * 4 + 4], panel.values[chunk * 4 + 5]),
        pack_bf16x2(panel.values[chunk * 4 + 6], panel.values[chunk * 4 + 7])};
    store_matrices(line + ((chunk + place.chunk) ^ swizzle) * kChunkBytes, words);
  }
}

/// The same for tokens as columns.
template <class TargetRow>
__device__ __forceinline__ void store_panel(Stage& stage, const SmallPanel& panel, uint32_t rows,
                                            TargetRow target_row) {
  const ThreadPlace place = thread_place();
  const uint32_t lane = place.thread % kWarpThreads;
  const uint32_t chunk = place.thread / kWarpThreads * 2 + lane / 8 % 2;
#pragma unroll
  for (uint32_t group = 0; group < kSmallTokensPerConsumer / 8; ++group) {
    if (group * 8 < rows) {
      const uint32_t row = group * 8 + lane % 8;
      const uint32_t swizzle = row < rows ? target_row(row) & 7u : 0;
      const float* const values = panel.values + group * 4;
      store_matrices_transposed(stage.tile + row * kRowBytes + (chunk ^ swizzle) * kChunkBytes,
                                pack_bf16x2(values[0], values[1]),
                                pack_bf16x2(values[2], values[3]));
    }
  }
}

// A row's sum of squares: four chains, one for each pair of columns in 8, over the 8 chunks in
// order; then neighbouring chains, then the two halves. The same in both shapes.

/// A chain's next two values: those of one word.
__device__ __forceinline__ float add_squares(float sum, uint32_t word) {
  sum = fmaf(low_bf16(word), low_bf16(word), sum);
  return fmaf(high_bf16(word), high_bf16(word), sum);
}

/// The sum of a row's four chains, in four neighbouring lanes.
__device__ __forceinline__ float join_chains(float chain) {
  chain += __shfl_xor_sync(~0u, chain, 1);
  return chain + __shfl_xor_sync(~0u, chain, 2);
}

/// Rounds the panel into the stage, rows where they are; the sum of squares of each rounded row
/// goes into the stage's vector.
__device__ __forceinline__ void store_panel_with_sums(Stage& stage, const Panel& panel,
                                                      uint32_t rows) {
  store_panel(stage, panel, rows, [](uint32_t row) TERRAZZO_LAMBDA { return row; });
  const ThreadPlace place = thread_place();
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    float chain = 0.0f;
#pragma unroll
    for (uint32_t chunk = 0; chunk < kPanelCols / kChunkElems; ++chunk) {
      const float* const values = panel.values + chunk * 4 + half * 2;
      chain = add_squares(chain, pack_bf16x2(values[0], values[1]));
    }
    chain = join_chains(chain);
    if (place.pair == 0) {
      stage.vector[place.row + half * 8] = chain;
    }
  }
}

__device__ __forceinline__ void store_panel_with_sums(Stage& stage, const SmallPanel& panel,
                                                      uint32_t rows) {
  store_panel(stage, panel, rows, [](uint32_t row) TERRAZZO_LAMBDA { return row; });
  named_barrier_sync(stage.barrier, kConsumerThreads);  // the rows are written
  constexpr uint32_t kChains = 4;
  static_assert(kSmallTokensPerConsumer * kChains == kConsumerThreads);
  const uint32_t thread = thread_place().thread;
  const uint32_t row = thread / kChains;
  float chain = 0.0f;
#pragma unroll
  for (uint32_t chunk = 0; chunk < kPanelCols / kChunkElems; ++chunk) {
    chain = add_squares(chain, load_shared_word(stage.tile + chunk_offset(row, chunk) +
                                                thread % kChains * uint32_t{sizeof(uint32_t)}));
  }
  chain = join_chains(chain);
  if (row < rows && thread % kChains == 0) {
    stage.vector[row] = chain;
  }
}

}  // namespace terrazzo::sm90
