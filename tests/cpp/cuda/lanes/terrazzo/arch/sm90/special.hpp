// Special registers, approximations and CUDA's own functions, on lanes. Approximations have other
// bits than the GPU's, but like these depend on their argument alone.
#pragma once

#include <cuda_runtime.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cuda/lanes/lanes.hpp"
#include "terrazzo/core/bf16.hpp"

// --- of the CUDA language ---

inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ull2double_rn(uint64_t value) { return static_cast<double>(value); }
inline float __int2float_rn(int value) { return static_cast<float>(value); }
inline float __uint_as_float(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t __float_as_uint(float value) { return std::bit_cast<uint32_t>(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __popc(uint32_t value) { return std::popcount(value); }
inline uint32_t __umulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(uint64_t{a} * b >> 32);
}
inline void __threadfence_system() {}

inline void* __cvta_shared_to_generic(size_t address) {
  return terrazzo::lanes::Launch::lane().block->at(static_cast<uint32_t>(address));
}

template <class T>
T atomicAdd(T* address, T value) {
  const T before = *address;
  *address += value;
  return before;
}
inline uint32_t atomicCAS_system(uint32_t* address, uint32_t expected, uint32_t value) {
  const uint32_t before = *address;
  *address = before == expected ? value : before;
  return before;
}

inline void __syncwarp() { terrazzo::lanes::warp_sync(); }
inline void __syncthreads() { terrazzo::lanes::block_sync(); }

namespace terrazzo::lanes {

struct Exchange {
  uint64_t value;
  uint64_t result;
  uint32_t from;
};

/// Every lane gets the value of the lane that it names.
inline uint64_t exchange(uint64_t value, uint32_t from) {
  Exchange own{value, 0, from};
  warp_collective(
      [](void* const* arguments) {
        for (uint32_t i = 0; i < kWarpLanes; ++i) {
          auto& lane = *static_cast<Exchange*>(arguments[i]);
          lane.result = static_cast<const Exchange*>(arguments[lane.from])->value;
        }
      },
      &own);
  return own.result;
}

/// The same for any type of at most 8 bytes.
template <class T>
T exchange_value(T value, uint32_t from) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof(T));
  bits = exchange(bits, from);
  std::memcpy(&value, &bits, sizeof(T));
  return value;
}

/// Every lane gets the lanes' values folded by `kFold`.
template <uint64_t (*kFold)(uint64_t, uint64_t)>
uint64_t reduce(uint64_t value) {
  Exchange own{value, 0, 0};
  warp_collective(
      [](void* const* arguments) {
        uint64_t total = static_cast<const Exchange*>(arguments[0])->value;
        for (uint32_t i = 1; i < kWarpLanes; ++i) {
          total = kFold(total, static_cast<const Exchange*>(arguments[i])->value);
        }
        for (uint32_t i = 0; i < kWarpLanes; ++i) {
          static_cast<Exchange*>(arguments[i])->result = total;
        }
      },
      &own);
  return own.result;
}

inline uint64_t fold_or(uint64_t a, uint64_t b) { return a | b; }
inline uint64_t fold_sum(uint64_t a, uint64_t b) { return a + b; }

}  // namespace terrazzo::lanes

template <class T>
T __shfl_sync(uint32_t, T value, uint32_t from) {
  return terrazzo::lanes::exchange_value(value, from % terrazzo::lanes::kWarpLanes);
}
template <class T>
T __shfl_xor_sync(uint32_t, T value, uint32_t mask) {
  return terrazzo::lanes::exchange_value(value, terrazzo::lanes::Launch::lane().lane ^ mask);
}
template <class T>
T __shfl_up_sync(uint32_t, T value, uint32_t distance) {
  const uint32_t lane = terrazzo::lanes::Launch::lane().lane;
  return terrazzo::lanes::exchange_value(value, lane < distance ? lane : lane - distance);
}
inline uint32_t __ballot_sync(uint32_t, bool value) {
  const uint64_t own = uint64_t{value} << terrazzo::lanes::Launch::lane().lane;
  return static_cast<uint32_t>(terrazzo::lanes::reduce<terrazzo::lanes::fold_or>(own));
}
inline int __any_sync(uint32_t mask, bool value) { return __ballot_sync(mask, value) != 0; }
inline uint32_t __reduce_or_sync(uint32_t, uint32_t value) {
  return static_cast<uint32_t>(terrazzo::lanes::reduce<terrazzo::lanes::fold_or>(value));
}
inline uint32_t __reduce_add_sync(uint32_t, uint32_t value) {
  return static_cast<uint32_t>(terrazzo::lanes::reduce<terrazzo::lanes::fold_sum>(value));
}

// --- of arch/sm90/special.hpp ---

namespace terrazzo::sm90 {

inline uint64_t globaltimer_ns() { return lanes::Launch::current().now_ns(); }
inline void nanosleep(uint32_t) { lanes::Launch::yield(); }
template <int kRegisters>
void setmaxnreg_dec() {}
template <int kRegisters>
void setmaxnreg_inc() {}
inline uint32_t thread_index() { return lanes::Launch::lane().thread; }
inline bool elect_one() {
  lanes::warp_sync();
  return lanes::Launch::lane().lane == 0;
}
inline uint32_t opaque_zero() { return 0; }
inline uint32_t warp_uniform(uint32_t value) { return __reduce_or_sync(~0u, value); }

inline uint32_t pack_bf16x2(float low, float high) {
  return uint32_t{to_bf16(high).bits} << 16 | to_bf16(low).bits;
}
inline float exp2_approx(float x) { return std::exp2(x); }
inline float rcp_approx(float x) { return 1.0f / x; }
inline float rsqrt_approx(float x) { return 1.0f / std::sqrt(x); }

}  // namespace terrazzo::sm90
