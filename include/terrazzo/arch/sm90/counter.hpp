// Counters in global memory. Gpu scope serves one GPU; a counter that a peer may touch takes sys
// scope.
#pragma once

#include <cstdint>

namespace terrazzo::sm90 {

/// PTX: ld.acquire.gpu
__device__ __forceinline__ uint32_t ld_acquire_gpu(const uint32_t* counter) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

/// PTX: ld.acquire.sys
__device__ __forceinline__ uint32_t ld_acquire_sys(const uint32_t* counter) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  return value;
}

/// PTX: red.release.gpu
__device__ __forceinline__ void red_release_add_gpu(uint32_t* counter, uint32_t increment) {
  asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(counter), "r"(increment)
               : "memory");
}

/// PTX: red.release.sys
__device__ __forceinline__ void red_release_add_sys(uint32_t* counter, uint32_t increment) {
  asm volatile("red.release.sys.global.add.u32 [%0], %1;" ::"l"(counter), "r"(increment)
               : "memory");
}

/// PTX: atom.relaxed.gpu
__device__ __forceinline__ uint32_t atom_add_relaxed_gpu(uint32_t* counter, uint32_t increment) {
  uint32_t value;
  asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], %2;"
               : "=r"(value)
               : "l"(counter), "r"(increment)
               : "memory");
  return value;
}

/// PTX: ld.relaxed.gpu
__device__ __forceinline__ uint32_t ld_relaxed_gpu(const uint32_t* word) {
  uint32_t value;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}

/// PTX: ld.relaxed.sys
__device__ __forceinline__ uint32_t ld_relaxed_sys(const uint32_t* word) {
  uint32_t value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}

/// PTX: st.relaxed.sys
__device__ __forceinline__ void st_relaxed_sys(uint32_t* word, uint32_t value) {
  asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}

}  // namespace terrazzo::sm90
