// Multiply-accumulate: K ascending in one accumulator, in every shape.
#pragma once

#include "terrazzo/arch/host/simd/simd.hpp"
#include "terrazzo/arch/host/slot.hpp"
#include "terrazzo/tile/host/tiles.hpp"

namespace terrazzo::host {

inline void clear(Accumulator& acc, uint32_t rows) {
  for (uint32_t row = 0; row < rows; ++row) {
    for (float& value : acc.values[row]) {
      value = 0.0f;
    }
  }
}

/// acc[rows, panels * 64] += A[rows, 64] * B[panels * 64, 64]^T. A: rows from `a_row` of slot `a`;
/// B: the adjacent slots `b0`, `b1`, two panels each. Done at the next `mma_wait`.
template <uint32_t kPanels>
void mma_async(Accumulator& acc, const Slot& a, uint32_t a_row, const Slot& b0, const Slot& b1,
               uint32_t rows, uint32_t panels) {
  const std::byte* const a_tile = a.read(a_row * kRowBytes, rows * kRowBytes);
  const uint32_t first = panels < 2 ? panels : 2;
  const std::byte* const b_tile = b0.read(0, first * kHalfPanelBytes);
  if (panels > first) {
    b1.read(0, (panels - first) * kHalfPanelBytes);
  }
  gemm_panel(acc.values[0], kColTile, a_tile, b_tile, rows, panels * kPanelCols);
}

/// The same with few tokens, `kCount` k tiles: tokens from byte `token_offset` of slot `tokens` on,
/// k tiles `token_stride` apart. Weights: one panel, two k tiles a slot; two panels, a k tile a
/// slot; four, two panels a slot.
template <uint32_t kPanels, uint32_t kTokens, uint32_t kCount>
void mma_small_async(Accumulator& acc, const Slot& tokens, uint32_t token_offset,
                     uint32_t token_stride, const Slot& w0, const Slot& w1, uint32_t rows,
                     uint32_t panels) {
  const auto multiply = [&](uint32_t k, uint32_t first_panel, const Slot& weights, uint32_t offset,
                            uint32_t count) {
    gemm_panel(&acc.values[0][first_panel * kPanelCols], kColTile,
               tokens.read(token_offset + k * token_stride, rows * kRowBytes),
               weights.read(offset, count * kHalfPanelBytes), rows, count * kPanelCols);
  };
  for (uint32_t k = 0; k < kCount; ++k) {
    if (kPanels == 1) {
      multiply(k, 0, k < 2 ? w0 : w1, k % 2 * kHalfPanelBytes, 1);
    } else if (kPanels == 2) {
      multiply(k, 0, k == 0 ? w0 : w1, 0, panels);
    } else {
      multiply(k, 0, w0, 0, 2);
      multiply(k, 2, w1, 0, panels - 2);
    }
  }
}

/// Until at most `kInFlight` of the issued multiplies are still running.
template <int kInFlight>
inline void mma_wait(Accumulator&) {}

}  // namespace terrazzo::host
