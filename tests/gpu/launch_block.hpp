// Runs a body in blocks of a consumer's threads, on the GPU. Lanes have a header of this name of
// their own; therefore `#include <launch_block.hpp>`, in angle brackets.
#pragma once

#include <cuda_runtime.h>

#include "machine/cuda/check_cuda.hpp"
#include "terrazzo/arch/sm90/machine.hpp"

namespace terrazzo::testing {

inline constexpr bool kHasTensorCore = true;  // products have an H100's bits

struct BlockIndex {
  uint32_t x;
  uint32_t y;
};

template <class Body>
__global__ void __launch_bounds__(sm90::kConsumerThreads)
    run_body(const __grid_constant__ Body body) {
  extern __shared__ std::byte shared_bytes[];
  constexpr uint64_t kAlign = alignof(typename Body::Memory);
  const auto begin = reinterpret_cast<uint64_t>(shared_bytes);
  auto& memory = *reinterpret_cast<typename Body::Memory*>((begin + kAlign - 1) / kAlign * kAlign);
  if constexpr (requires { body(memory, BlockIndex{}); }) {
    body(memory, BlockIndex{blockIdx.x, blockIdx.y});
  } else {
    body(memory);
  }
}

/// Calls `body(memory, index)` in each thread of `columns` x `rows` blocks, with a `Body::Memory`
/// in shared memory, and waits.
template <class Body>
void launch_blocks(uint32_t columns, uint32_t rows, const Body& body) {
  constexpr uint32_t kBytes = sizeof(typename Body::Memory) + alignof(typename Body::Memory);
  cuda::check_cuda(
      cudaFuncSetAttribute(run_body<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  run_body<Body><<<dim3(columns, rows), sm90::kConsumerThreads, kBytes>>>(body);
  cuda::check_cuda(cudaGetLastError());
  cuda::check_cuda(cudaDeviceSynchronize());
}

/// The same for a single block, `body(memory)`.
template <class Body>
void launch_block(const Body& body) {
  launch_blocks(1, 1, body);
}

}  // namespace terrazzo::testing
