// 8x8 matrices of 16-bit elements between a warp's registers and shared memory.
#pragma once

#include <cstdint>

namespace terrazzo::sm90 {

/// Two matrices, stored transposed: lanes 0 to 7 and 8 to 15 give the addresses of their rows. PTX:
/// stmatrix
__device__ __forceinline__ void store_matrices_transposed(uint32_t address, uint32_t first,
                                                          uint32_t second) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address),
               "r"(first), "r"(second)
               : "memory");
}

}  // namespace terrazzo::sm90
