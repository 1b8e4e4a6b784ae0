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

/// The same with few tokens: tokens at byte `token_offset` of slot `tokens`; weight panels at byte
/// `weight_offset` of slot `w0`, panels 2 and 3 in slot `w1`.
template <uint32_t kPanels, uint32_t kTokens>
void mma_small_async(Accumulator& acc, const Slot& tokens, uint32_t token_offset, const Slot& w0,
                     const Slot& w1, uint32_t weight_offset, uint32_t rows, uint32_t panels) {
  const std::byte* const token_tile = tokens.read(token_offset, rows * kRowBytes);
  const auto multiply = [&](uint32_t first_panel, const Slot& weights, uint32_t count) {
    gemm_panel(&acc.values[0][first_panel * kPanelCols], kColTile, token_tile,
               weights.read(weight_offset, count * kHalfPanelBytes), rows, count * kPanelCols);
  };
  const uint32_t first = panels < 2 ? panels : 2;
  multiply(0, w0, first);
  if (panels > first) {
    multiply(first, w1, panels - first);
  }
}

/// Until at most `kInFlight` of the issued multiplies are still running.
template <int kInFlight>
inline void mma_wait(Accumulator&) {}

}  // namespace terrazzo::host
