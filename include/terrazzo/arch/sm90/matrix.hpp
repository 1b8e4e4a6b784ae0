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

/// Four matrices: each 8 lanes in turn give the addresses of one's rows. PTX: stmatrix
__device__ __forceinline__ void store_matrices(uint32_t address, const uint32_t (&values)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(values[0]), "r"(values[1]), "r"(values[2]), "r"(values[3])
               : "memory");
}

/// Four matrices, addressed in the same way. PTX: ldmatrix
__device__ __forceinline__ void load_matrices(uint32_t (&values)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
               : "r"(address)
               : "memory");
}

/// The same, each transposed. PTX: ldmatrix
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&values)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(values[0]), "=r"(values[1]), "=r"(values[2]), "=r"(values[3])
               : "r"(address)
               : "memory");
}

/// d[16, 8] += a[16, 16] * b[8, 16]^T by a warp: bf16 operands, fp32 accumulators. The same bits as
/// wgmma (docs/performance/probes.md). PTX: mma.sync
__device__ __forceinline__ void multiply_matrices(float* d, const uint32_t (&a)[4], uint32_t b_low,
                                                  uint32_t b_high) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b_low), "r"(b_high));
}

}  // namespace terrazzo::sm90
