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

/// acc[64 rows, 256] += A[64, 64] * B[256, 64]^T from row `a_row` of slot `a` and the adjacent
/// slots b0, b1. Columns past the tile's panels multiply stale bytes and are never read.
__device__ __forceinline__ void mma_async(Accumulator& acc, const Slot& a, uint32_t a_row,
                                          const Slot& b0, const Slot&, uint32_t, uint32_t) {
  const uint32_t a_tile = a.data + a_row * kRowBytes;
  wgmma_fence();
#pragma unroll
  for (uint32_t step = 0; step < kStepsPerPanel; ++step) {
    wgmma_async<false, false>(acc.values, k_major_descriptor(a_tile + step * kStepBytes),
                              k_major_descriptor(b0.data + step * kStepBytes), 1);
  }
  wgmma_commit();
}

/// One panel of weights times N tokens. Fence, products and wait stand in one branch: were there a
/// run-time choice between them, the compiler would fence and wait by itself, and run all products
/// of the kernel one by one.
template <uint32_t kTokens>
__device__ __forceinline__ void mma_small_panel(float (&acc)[kSmallTokensPerConsumer / 2],
                                                uint32_t weights, uint32_t tokens) {
  float (&part)[kTokens / 2] = reinterpret_cast<float (&)[kTokens / 2]>(acc);
  wgmma_fence();
#pragma unroll
  for (uint32_t step = 0; step < kStepsPerPanel; ++step) {
    wgmma_async<false, false>(part, k_major_descriptor(weights + step * kStepBytes),
                              k_major_descriptor(tokens + step * kStepBytes), 1);
  }
  wgmma_commit();
  wgmma_wait<0>();
  pin_registers(part);
}

/// Few tokens: [64 weight rows, 64] * tokens^T for one or two panels from `first_panel` on.
__device__ __forceinline__ void mma_small_async(SmallAccumulator& acc, uint32_t first_panel,
                                                const Slot& tokens, uint32_t token_offset,
                                                const Slot& weights, uint32_t weight_offset,
                                                uint32_t rows, uint32_t panels) {
  const uint32_t tile = weights.data + weight_offset;
  const uint32_t token_tile = tokens.data + token_offset;
#pragma unroll
  for (uint32_t p = 0; p < kPanelsPerColTile; ++p) {
    if (rows != 0 && p >= first_panel && p < first_panel + panels) {
      const uint32_t panel_tile = tile + (p - first_panel) * kHalfPanelBytes;
      if (rows <= 8) {
        mma_small_panel<8>(acc.values[p], panel_tile, token_tile);
      } else {
        mma_small_panel<kSmallTokensPerConsumer>(acc.values[p], panel_tile, token_tile);
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
