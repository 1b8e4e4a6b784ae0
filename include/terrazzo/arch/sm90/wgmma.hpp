// wgmma: 64 x N x 16 products of a warpgroup, bf16 operands, fp32 accumulators.
#pragma once

#include <cstdint>

#include "terrazzo/arch/sm90/descriptor.hpp"

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

}  // namespace terrazzo::sm90
