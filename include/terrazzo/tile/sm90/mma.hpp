// Multiply-accumulate: K in ascending k16 steps in one accumulator, in every shape.
#pragma once

#include "terrazzo/arch/sm90/machine.hpp"
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
/// `token_stride` apart. Weights: one panel, two k tiles a slot; two panels, a k tile a slot; four,
/// two panels a slot. Panels past the tile's multiply stale bytes and are never read.
template <uint32_t kPanels, uint32_t kTokens, uint32_t kCount>
__device__ __forceinline__ void mma_small_async(SmallAccumulator& acc, const Slot& tokens,
                                                uint32_t token_offset, uint32_t token_stride,
                                                const Slot& w0, const Slot& w1, uint32_t,
                                                uint32_t) {
  const uint64_t first = k_major_descriptor(w0.data);
  const uint64_t second = k_major_descriptor(w1.data);
  wgmma_fence();
#pragma unroll
  for (uint32_t k = 0; k < kCount; ++k) {
    const uint64_t columns = k_major_descriptor(tokens.data + token_offset + k * token_stride);
#pragma unroll
    for (uint32_t step = 0; step < kStepsPerPanel; ++step) {
#pragma unroll
      for (uint32_t p = 0; p < kPanels; ++p) {
        const uint32_t tile = kPanels == 1 ? k : kPanels == 2 ? 2 * k + p : p;  // two a slot
        wgmma_async<false, false>(
            reinterpret_cast<float (&)[kTokens / 2]>(acc.values[p]),
            advance_descriptor(tile < 2 ? first : second,
                               tile % 2 * kHalfPanelBytes + step * kStepBytes),
            advance_descriptor(columns, step * kStepBytes), 1);
      }
    }
  }
  wgmma_commit();
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
__device__ __forceinline__ void mma_wait(SmallAccumulator& acc) {
  wgmma_wait<kInFlight>();
  if constexpr (kInFlight == 0) {
#pragma unroll
    for (auto& panel : acc.values) {
      pin_registers(panel);
    }
  }
}

}  // namespace terrazzo::sm90
