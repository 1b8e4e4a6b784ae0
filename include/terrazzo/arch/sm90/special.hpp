// Special registers, register budgets, and single-precision approximations.
#pragma once

#include <cstdint>

namespace terrazzo::sm90 {

/// PTX: %globaltimer, nanoseconds, coarse
__device__ __forceinline__ uint64_t globaltimer_ns() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now)::"memory");
  return now;
}

/// At most about a millisecond. PTX: nanosleep
__device__ __forceinline__ void nanosleep(uint32_t ns) {
  asm volatile("nanosleep.u32 %0;" ::"r"(ns) : "memory");
}

/// PTX: setmaxnreg.dec, by a whole warpgroup
template <int kRegisters>
__device__ __forceinline__ void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// PTX: setmaxnreg.inc, by a whole warpgroup
template <int kRegisters>
__device__ __forceinline__ void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

/// Of the thread in its block. The compiler does not see that it stays the same: so what is
/// computed from it is not kept in registers from one instruction to the next. PTX: %tid.x
__device__ __forceinline__ uint32_t thread_index() {
  uint32_t index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  return index;
}

/// True in one lane of the warp, the same one each time; the compiler knows that it is one. PTX:
/// elect.sync
__device__ __forceinline__ bool elect_one() {
  uint32_t elected;
  asm volatile("{.reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p;}"
               : "=r"(elected)
               :
               : "memory");
  return elected != 0;
}

/// 0, of which the compiler does not know that it is 0.
__device__ __forceinline__ uint32_t opaque_zero() {
  uint32_t zero = 0;
  asm("" : "+r"(zero));
  return zero;
}

/// A value that is the same in all lanes, in a register of the warp: what is computed from it for
/// all lanes at once needs no moves there. PTX: redux.sync
__device__ __forceinline__ uint32_t warp_uniform(uint32_t value) {
  uint32_t uniform;
  asm("redux.sync.or.b32 %0, %1, 0xffffffff;" : "=r"(uniform) : "r"(value));
  return uniform;
}

/// Two fp32 rounded to nearest even, `low` in the lower half. PTX: cvt.rn.bf16x2
__device__ __forceinline__ uint32_t pack_bf16x2(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

/// 2^x. PTX: ex2.approx.ftz
__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 1 / x. PTX: rcp.approx.ftz
__device__ __forceinline__ float rcp_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// 1 / sqrt(x). PTX: rsqrt.approx.ftz
__device__ __forceinline__ float rsqrt_approx(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace terrazzo::sm90
