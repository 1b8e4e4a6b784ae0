// Which vector instructions this processor has, asked once.
#pragma once

#include <cstdint>
#include <initializer_list>

#if defined(__x86_64__) || defined(__i386__)
#define TERRAZZO_SIMD_X86 1
#else
#define TERRAZZO_SIMD_X86 0
#endif

namespace terrazzo::host {

enum class SimdLevel : uint8_t { baseline, avx2, avx512 };

inline const char* simd_level_name(SimdLevel level) {
  switch (level) {
    case SimdLevel::avx512:
      return "avx512";
    case SimdLevel::avx2:
      return "avx2";
    default:
      return "baseline";
  }
}

inline bool simd_level_supported(SimdLevel level) {
#if TERRAZZO_SIMD_X86
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  switch (level) {
    case SimdLevel::avx512:
      return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    case SimdLevel::avx2:
      return avx2;
    default:
      return true;
  }
#else
  return level == SimdLevel::baseline;
#endif
}

inline SimdLevel best_simd_level() {
  for (const SimdLevel level : {SimdLevel::avx512, SimdLevel::avx2}) {
    if (simd_level_supported(level)) {
      return level;
    }
  }
  return SimdLevel::baseline;
}

}  // namespace terrazzo::host
