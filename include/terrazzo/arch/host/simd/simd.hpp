// CPU compute primitives of the host machine, on the vector instructions that the processor has.
//
// The bits of an output element are a function of its own operands in ascending order (of k, dims
// or tokens) only: not of the number of rows or columns, of the path taken, of alignment, or of the
// SIMD level. Exceptions: which NaN a NaN is; and, on x86 without FMA, bf16 products below 2^-126.
// No -ffast-math. Where rounding depends on it, multiply-add is an explicit fused one.
//
// Tiles: rows of 64 bf16 in swizzled 16-byte chunks (chunk_offset), row 0 at a 1024-byte boundary
// of the tile's own row numbering; data 128-byte aligned for speed only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "terrazzo/arch/host/simd/kernels.hpp"
#include "terrazzo/core/geometry.hpp"

namespace terrazzo::host {

/// acc[i * ld + j] += sum over k = 0..63 of A[i][k] * B[j][k], one fma at a time with ascending k.
/// a: tile of `rows` (1..64) tokens; b: tile of `cols` (a multiple of 8) weight rows.
inline void gemm_panel(float* acc, uint32_t ld, const std::byte* a, const std::byte* b,
                       uint32_t rows, uint32_t cols) {
  kernels().gemm_panel(acc, ld, a, b, rows, cols);
}

/// The state before any token: out 0, max -inf, sum 0.
inline void attention_clear(AttentionState state, uint32_t rows, uint32_t head_dim) {
  for (uint32_t i = 0; i < rows * head_dim; ++i) {
    state.out[i] = 0.0f;
  }
  for (uint32_t i = 0; i < rows; ++i) {
    state.max[i] = -std::numeric_limits<float>::infinity();
    state.sum[i] = 0.0f;
  }
}

/// One online-softmax update with one page of 64 tokens; rows <= 64, head_panels 1 or 2.
/// q: panel p at q + p * q_panel_stride; k and v: panel p at + p * kHalfPanelBytes.
/// limits[i]: how many tokens of the page row i sees (0..64); 0 leaves its state untouched. Values
/// of tokens beyond a row's limit do not matter, whatever they are. scale_log2: softmax scale *
/// log2(e). Probabilities are rounded to bf16 for P * V, but not in the sum.
inline void attention_page(AttentionState state, const std::byte* q, uint32_t q_panel_stride,
                           const std::byte* k, const std::byte* v, uint32_t rows,
                           uint32_t head_panels, const uint32_t* limits, float scale_log2) {
  kernels().attention_page(state, q, q_panel_stride, k, v, rows, head_panels, limits, scale_log2);
}

/// total = total (+) part, row by row. A part without tokens changes nothing; a total without
/// tokens becomes an exact copy of the part.
inline void attention_fold(AttentionState total, AttentionState part, uint32_t rows,
                           uint32_t head_dim) {
  kernels().attention_fold(total, part, rows, head_dim);
}

/// 2^x to about one unit in the last place; 0 for -inf and below -150, inf from 128, NaN for NaN.
inline float exp2_approx(float x) {
  float result;
  kernels().exp2_row(&result, &x, 1);
  return result;
}
inline void exp2_row(float* out, const float* x, uint32_t n) { kernels().exp2_row(out, x, n); }

/// Natural logarithm of positive normal numbers to about one unit in the last place.
inline float log_approx(float x) {
  float result;
  kernels().log_row(&result, &x, 1);
  return result;
}
inline void log_row(float* out, const float* x, uint32_t n) { kernels().log_row(out, x, n); }

/// out = gate * sigmoid(gate) * up. out may be gate or up.
inline void silu_mul(float* out, const float* gate, const float* up, uint32_t n) {
  kernels().silu_mul(out, gate, up, n);
}

/// Rounds src[0..cols) to bf16 (nearest even, NaN kept) into row `row` of a tile.
inline void round_store_row(std::byte* tile, uint32_t row, const float* src,
                            uint32_t cols = kPanelCols) {
  kernels().round_store_row(tile, row, src, cols);
}

/// dst[0..cols) = row `row` of a tile.
inline void load_row(float* dst, const std::byte* tile, uint32_t row, uint32_t cols = kPanelCols) {
  kernels().load_row(dst, tile, row, cols);
}

/// dst[0..cols) += row `row` of a tile.
inline void add_row(float* dst, const std::byte* tile, uint32_t row, uint32_t cols = kPanelCols) {
  kernels().add_row(dst, tile, row, cols);
}

/// dst[0..n) *= factor.
inline void scale_row(float* dst, float factor, uint32_t n) { kernels().scale_row(dst, factor, n); }

/// Sum of squares of the 64 values of row `row` of a tile: sixteen interleaved fma chains, then a
/// fixed tree.
inline float sum_squares_row(const std::byte* tile, uint32_t row) {
  return kernels().sum_squares_row(tile, row);
}

/// Standard Gumbel noise of one token id; see core/noise.hpp.
inline float gumbel_noise(uint64_t seed, uint32_t position, uint32_t token_id) {
  float result;
  kernels().gumbel_row(&result, seed, position, token_id, 1);
  return result;
}

/// keys[i] = logits[i] * inv_temperature + gumbel_noise(seed, position, first_id + i); the largest
/// key is a sample of softmax(logits * inv_temperature). keys may be logits.
inline void perturb_row(float* keys, const float* logits, float inv_temperature, uint64_t seed,
                        uint32_t position, uint32_t first_id, uint32_t n) {
  kernels().perturb_row(keys, logits, inv_temperature, seed, position, first_id, n);
}

/// Largest of n >= 1 values, its lowest index, and the sum of exp(value - max) (sixteen interleaved
/// sums, then a fixed tree). A NaN is never the largest, but makes the sum NaN.
inline MaxSumExp max_and_sum_exp_row(const float* values, uint32_t n) {
  return kernels().max_and_sum_exp_row(values, n);
}

}  // namespace terrazzo::host
