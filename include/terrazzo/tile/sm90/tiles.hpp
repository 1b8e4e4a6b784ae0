// Register tiles of a consumer warpgroup (128 threads), in the layout of wgmma accumulators.
//
// Thread t = 32 * warp + lane holds of a [64, N] product the rows 16 * warp + lane / 4 (+ 8) and of
// every 8 columns the pair 2 * (lane % 4): value [4 * j + i] is row (+ 8 if i >= 2), column 8 * j +
// pair + i % 2.
#pragma once

#include <cstdint>

#include "terrazzo/arch/sm90/special.hpp"
#include "terrazzo/core/geometry.hpp"

namespace terrazzo::sm90 {

/// [64 token rows][256 output columns].
struct Accumulator {
  float values[kColTile / 2];
};

inline constexpr uint32_t kSmallTokensPerConsumer = kSmallRows / 2;  // 32

/// Operands swapped: per panel [64 output columns][up to 32 tokens].
struct SmallAccumulator {
  float values[kPanelsPerColTile][kSmallTokensPerConsumer / 2];
};

/// 64 output columns on their way out, rows as in Accumulator.
struct Panel {
  float values[kPanelCols / 2];
};

/// The same, operands swapped.
struct SmallPanel {
  float values[kSmallTokensPerConsumer / 2];
};

/// One value a row, in shared memory.
struct RowVector {
  float* values;
  uint32_t barrier;  // named barrier of the consumer
};

/// Place of a thread in its warpgroup.
struct ThreadPlace {
  uint32_t thread;  // 0 .. 127
  uint32_t row;     // of values [4 * j] and [4 * j + 1]; [4 * j + 2] and [4 * j + 3] are 8 further
  uint32_t pair;    // first column in each 8
};

__device__ __forceinline__ ThreadPlace thread_place() {
  const uint32_t thread = thread_index() % 128;
  const uint32_t lane = thread % 32;
  return {thread, thread / 32 * 16 + lane / 4, lane % 4 * 2};
}

/// What a lane addresses when its warp moves four 8x8 matrices of a panel: 16 rows, two 16-byte
/// chunks.
struct MatrixPlace {
  uint32_t row;
  uint32_t chunk;  // 0 or 1
};

__device__ __forceinline__ MatrixPlace matrix_place() {
  const uint32_t thread = thread_place().thread;
  return {thread / 32 * 16 + thread % 16, thread / 16 % 2};
}

/// Calls f(value, row, column) for every element of a panel; [64 rows, 64 columns].
template <class F>
__device__ __forceinline__ void for_each_element(Panel& panel, F f) {
  const ThreadPlace place = thread_place();
#pragma unroll
  for (uint32_t i = 0; i < kPanelCols / 2; ++i) {
    f(panel.values[i], place.row + (i % 4 / 2) * 8, i / 4 * 8 + place.pair + i % 2);
  }
}

/// Rows are tokens, columns output columns, also when the operands were swapped.
template <class F>
__device__ __forceinline__ void for_each_element(SmallPanel& panel, F f) {
  const ThreadPlace place = thread_place();
#pragma unroll
  for (uint32_t i = 0; i < kSmallTokensPerConsumer / 2; ++i) {
    f(panel.values[i], i / 4 * 8 + place.pair + i % 2, place.row + (i % 4 / 2) * 8);
  }
}

/// Calls f(low, high, row, low column) for partners 8 columns apart, the low one in the first 8
/// of 16.
template <class F>
__device__ __forceinline__ void for_each_partner(Panel& panel, F f) {
  const ThreadPlace place = thread_place();
#pragma unroll
  for (uint32_t i = 0; i < kPanelCols / 2; ++i) {
    if (i / 4 % 2 == 0) {
      f(panel.values[i], panel.values[i + 4], place.row + (i % 4 / 2) * 8,
        i / 4 * 8 + place.pair + i % 2);
    }
  }
}

template <class F>
__device__ __forceinline__ void for_each_partner(SmallPanel& panel, F f) {
  const ThreadPlace place = thread_place();
#pragma unroll
  for (uint32_t i = 0; i < kSmallTokensPerConsumer / 2; ++i) {
    if (i % 4 < 2) {
      f(panel.values[i], panel.values[i + 2], i / 4 * 8 + place.pair + i % 2, place.row);
    }
  }
}

}  // namespace terrazzo::sm90
