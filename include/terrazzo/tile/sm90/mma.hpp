// Multiply-accumulate: K in ascending k16 steps in one accumulator, in every shape.
#pragma once

#include "terrazzo/arch/sm90/machine.hpp"
#include "terrazzo/arch/sm90/matrix.hpp"
#include "terrazzo/arch/sm90/wgmma.hpp"
#include "terrazzo/tile/sm90/tiles.hpp"

namespace terrazzo::sm90 {

inline constexpr uint32_t kStepsPerPanel = kRowBytes / kStepBytes;  // k16 steps of 64 columns

__device__ __forceinline__ void clear(Accumulator& acc, uint32_t) {
#pragma unroll
  for (float& value : acc.values) {
    value = 0.0f;
  }
}

__device__ __forceinline__ void clear(SmallAccumulator& acc, uint32_t) {
#pragma unroll
  for (auto& panel : acc.values) {
#pragma unroll
    for (float& value : panel) {
      value = 0.0f;
    }
  }
}

/// acc[64 rows, kPanels * 64] += A[64, 64] * B[kPanels * 64, 64]^T from row `a_row` of slot `a`
/// and the adjacent slots b0, b1. Columns past the tile's panels multiply stale bytes and are never
/// read.
template <uint32_t kPanels>
__device__ __forceinline__ void mma_async(Accumulator& acc, const Slot& a, uint32_t a_row,
                                          const Slot& b0, const Slot&, uint32_t, uint32_t) {
  constexpr uint32_t kValues = kPanels * kPanelCols / 2;
  float (&part)[kValues] = reinterpret_cast<float (&)[kValues]>(acc.values);
  const uint64_t rows = k_major_descriptor(a.data + a_row * kRowBytes);
  const uint64_t columns = k_major_descriptor(b0.data);
  wgmma_fence();
#pragma unroll
  for (uint32_t step = 0; step < kStepsPerPanel; ++step) {
    wgmma_async<false, false>(part, advance_descriptor(rows, step * kStepBytes),
                              advance_descriptor(columns, step * kStepBytes), 1);
  }
  wgmma_commit();
}

/// Few tokens: [kPanels * 64 weight rows, kCount k tiles] * tokens^T. The k tiles of the tokens are
/// `token_stride` apart. Weights: one panel, its k tiles in `w0`; two panels, a k tile a slot;
/// four, two panels a slot. Panels past the tile's multiply stale bytes and are never read.
///
/// By mma.sync, with the bits of wgmma: K is one chain of dependent products, and these need no
/// fences between them. Done at return.
template <uint32_t kPanels, uint32_t kTokens, uint32_t kCount>
__device__ __forceinline__ void mma_small(SmallAccumulator& acc, const Slot& tokens,
                                          uint32_t token_offset, uint32_t token_stride,
                                          const Slot& w0, const Slot& w1, uint32_t, uint32_t) {
  constexpr uint32_t kGroups = kTokens / 8;
  constexpr uint32_t kStepPairs = kStepsPerPanel / 2;
  const MatrixPlace place = matrix_place();
  const uint32_t lane = thread_place().thread % kWarpThreads;
#pragma unroll
  for (uint32_t k = 0; k < kCount; ++k) {
    const uint32_t token_tile = tokens.data + token_offset + k * token_stride;
    uint32_t columns[kGroups][kStepPairs][4];
#pragma unroll
    for (uint32_t group = 0; group < kGroups; ++group) {
#pragma unroll
      for (uint32_t pair = 0; pair < kStepPairs; ++pair) {
        load_matrices(columns[group][pair], token_tile + group * kSwizzleAtomBytes +
                                                chunk_offset(lane % 8, pair * 4 + lane / 8));
      }
    }
#pragma unroll
    for (uint32_t p = 0; p < kPanels; ++p) {
      constexpr bool kSplitPanels = kPanels > 2;
      const bool in_second = kSplitPanels ? p >= 2 : kPanels == 2 && k == 1;
      const uint32_t tile = (in_second ? w1.data : w0.data) + (kSplitPanels   ? p % 2
                                                               : kPanels == 2 ? p
                                                                              : k) *
                                                                  kHalfPanelBytes;
#pragma unroll
      for (uint32_t step = 0; step < kStepsPerPanel; ++step) {
        uint32_t rows[4];
        load_matrices(rows, tile + chunk_offset(place.row, step * 2 + place.chunk));
#pragma unroll
        for (uint32_t group = 0; group < kGroups; ++group) {
          const uint32_t* const b = columns[group][step / 2] + step % 2 * 2;
          multiply_matrices(acc.values[p] + group * 4, rows, b[0], b[1]);
        }
      }
    }
  }
}

/// Until at most `kInFlight` of the issued multiplies are still running.
template <int kInFlight>
__device__ __forceinline__ void mma_wait(Accumulator& acc) {
  wgmma_wait<kInFlight>();
  if constexpr (kInFlight == 0) {
    pin_registers(acc.values);
  }
}

template <int kInFlight>
__device__ __forceinline__ void mma_wait(SmallAccumulator&) {}

}  // namespace terrazzo::sm90
