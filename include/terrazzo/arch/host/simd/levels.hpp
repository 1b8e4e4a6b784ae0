// Compiles the kernel bodies once for each SIMD level, each in its own namespace.
//
// The bodies must be compiled under their target (and not merely be inlined into a function that
// has it), because GCC lowers vector types that the target lacks before it inlines. So the target
// is set by pragma around the include; there are no -march flags, no ifunc and no target_clones.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "terrazzo/arch/host/simd/kernels.hpp"
#include "terrazzo/arch/host/simd/level.hpp"
#include "terrazzo/core/geometry.hpp"
#include "terrazzo/core/math.hpp"
#include "terrazzo/core/noise.hpp"

#if TERRAZZO_SIMD_X86
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define TERRAZZO_SIMD_BODIES 1

#define TERRAZZO_SIMD_LANES 4
namespace terrazzo::host::simd_baseline {
#include "terrazzo/arch/host/simd/bodies.hpp"
}  // namespace terrazzo::host::simd_baseline
#undef TERRAZZO_SIMD_LANES

#if TERRAZZO_SIMD_X86

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define TERRAZZO_SIMD_LANES 8
namespace terrazzo::host::simd_avx2 {
#include "terrazzo/arch/host/simd/bodies.hpp"
}  // namespace terrazzo::host::simd_avx2
#undef TERRAZZO_SIMD_LANES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")
#endif
#define TERRAZZO_SIMD_LANES 16
namespace terrazzo::host::simd_avx512 {
#include "terrazzo/arch/host/simd/bodies.hpp"
}  // namespace terrazzo::host::simd_avx512
#undef TERRAZZO_SIMD_LANES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif  // TERRAZZO_SIMD_X86

#undef TERRAZZO_SIMD_BODIES

namespace terrazzo::host {

TERRAZZO_SIMD_INLINE const Kernels& kernels(SimdLevel level) {
#if TERRAZZO_SIMD_X86
  switch (level) {
    case SimdLevel::avx512:
      return simd_avx512::kKernels;
    case SimdLevel::avx2:
      return simd_avx2::kKernels;
    default:
      break;
  }
#else
  static_cast<void>(level);
#endif
  return simd_baseline::kKernels;
}

}  // namespace terrazzo::host
