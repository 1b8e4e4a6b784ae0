// wgmma: 64 x N x 16 products of a warpgroup, bf16 operands, fp32 accumulators.
#pragma once

#include <cstdint>

namespace terrazzo::sm90 {

#include "terrazzo/arch/sm90/wgmma_shapes.inc"

/// Before the first product that touches registers written since the last one. PTX: wgmma.fence
__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

/// PTX: wgmma.commit_group
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/// Until at most `kPending` groups are in flight. PTX: wgmma.wait_group
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

/// Keeps the compiler from moving the use of accumulators across a wait.
template <int kCount>
__device__ __forceinline__ void pin_registers(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {  // a loop over references stays a loop
    asm volatile("" : "+f"(values[i])::"memory");
  }
}

/// The same for operand registers: wgmma reads them later.
template <int kCount>
__device__ __forceinline__ void pin_registers(uint32_t (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    asm volatile("" : "+r"(values[i])::"memory");
  }
}

inline constexpr uint32_t kSwizzleAtomBytes = 1024;  // 8 rows of 128 bytes
inline constexpr uint32_t kStepBytes = 32;           // 16 bf16 of K in a row

/// Operand in a tile with 128-byte swizzle; strides in bytes. K-major: stride 1024 between 8-row
/// groups, `leading` is ignored.
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t address, uint32_t leading,
                                                    uint32_t stride) {
  return static_cast<uint64_t>((address & 0x3ffffu) >> 4) |
         (static_cast<uint64_t>(leading >> 4) << 16) | (static_cast<uint64_t>(stride >> 4) << 32) |
         (uint64_t{1} << 62);
}

/// The same operand `bytes` further; within a slot the address field does not carry over.
__device__ __forceinline__ uint64_t advance_descriptor(uint64_t descriptor, uint32_t bytes) {
  const auto low = static_cast<uint32_t>(descriptor) + (bytes >> 4);
  return (descriptor & 0xffffffff00000000u) | low;
}

/// Operand [8 columns][16] in one piece of 256 bytes without swizzle.
__device__ __forceinline__ uint64_t plain_descriptor(uint32_t address) {
  constexpr uint32_t kHalfBytes = 128;  // 8 columns of 8 along K
  return static_cast<uint64_t>((address & 0x3ffffu) >> 4) | (uint64_t{kHalfBytes >> 4} << 16) |
         (uint64_t{kHalfBytes >> 4} << 32);
}

__device__ __forceinline__ uint64_t k_major_descriptor(uint32_t address) {
  return tile_descriptor(address, 16, kSwizzleAtomBytes);
}

}  // namespace terrazzo::sm90
