// Where an operand of wgmma lies in shared memory, as the instruction wants to be told.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace terrazzo::sm90 {

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
