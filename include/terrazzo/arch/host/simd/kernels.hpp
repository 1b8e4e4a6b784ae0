// The table of compute kernels, one per SIMD level, and the types in their signatures.
#pragma once

#include <cstddef>
#include <cstdint>

#include "terrazzo/arch/host/simd/level.hpp"
#include "terrazzo/core/geometry.hpp"

namespace terrazzo::host {

inline constexpr uint32_t kPackedCols = 32;  // two of the widest vectors

/// Running state of an online softmax: out is not yet divided by sum.
struct AttentionState {
  float* out;  // [rows, head_dim] fp32, row-major
  float* max;  // [rows] largest score so far times scale_log2; -inf: no token yet
  float* sum;  // [rows] sum of exp2(score * scale_log2 - max)
};

/// Largest value of a row, its first index, and the sum of exp(value - max).
struct MaxSumExp {
  float max;
  uint32_t index;
  float sum;
};

/// Working memory of a running kernel. One a thread and not on the stack, because fibers have small
/// stacks; nothing in it outlives a call.
struct KernelScratch {
  alignas(64) float a[kHalfRows * kPanelCols];             // rows of A or Q as fp32
  alignas(64) float b[kPanelCols * kPackedCols];           // [k][columns] of B as fp32
  alignas(64) float scores[kHalfRows * kPageTokens];       // S, then P rounded to bf16
  alignas(64) float values[kPageTokens * 2 * kPanelCols];  // [token][head_dim] of V as fp32
};

inline KernelScratch& kernel_scratch() {
  thread_local KernelScratch scratch;
  return scratch;
}

/// What simd.hpp documents, compiled for one SIMD level.
struct Kernels {
  void (*gemm_panel)(float*, uint32_t, const std::byte*, const std::byte*, uint32_t, uint32_t);
  void (*attention_page)(AttentionState, const std::byte*, uint32_t, const std::byte*,
                         const std::byte*, uint32_t, uint32_t, const uint32_t*, float);
  void (*attention_fold)(AttentionState, AttentionState, uint32_t, uint32_t);
  void (*exp2_row)(float*, const float*, uint32_t);
  void (*log_row)(float*, const float*, uint32_t);
  void (*silu_mul)(float*, const float*, const float*, uint32_t);
  void (*round_store_row)(std::byte*, uint32_t, const float*, uint32_t);
  void (*load_row)(float*, const std::byte*, uint32_t, uint32_t);
  void (*add_row)(float*, const std::byte*, uint32_t, uint32_t);
  void (*scale_row)(float*, float, uint32_t);
  float (*sum_squares_row)(const std::byte*, uint32_t);
  void (*gumbel_row)(float*, uint64_t, uint32_t, uint32_t, uint32_t);
  void (*perturb_row)(float*, const float*, float, uint64_t, uint32_t, uint32_t, uint32_t);
  MaxSumExp (*max_and_sum_exp_row)(const float*, uint32_t);
};

// The bodies take long to compile, so a program may compile them once: it defines
// TERRAZZO_SIMD_COMPILED everywhere, and includes levels.hpp in one source file.
#if defined(TERRAZZO_SIMD_COMPILED)
#define TERRAZZO_SIMD_INLINE
#else
#define TERRAZZO_SIMD_INLINE inline
#endif

/// The kernels of `level`, which the processor must support.
TERRAZZO_SIMD_INLINE const Kernels& kernels(SimdLevel level);

/// The kernels of the best level that this processor supports.
inline const Kernels& kernels() {
  static const Kernels& best = kernels(best_simd_level());
  return best;
}

}  // namespace terrazzo::host

#if !defined(TERRAZZO_SIMD_COMPILED)
#include "terrazzo/arch/host/simd/levels.hpp"
#endif
