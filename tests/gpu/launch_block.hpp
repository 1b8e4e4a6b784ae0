// Runs a body in one block of a consumer's threads, on the GPU. Lanes have a header of this name of
// their own; therefore `#include <launch_block.hpp>`, in angle brackets.
#pragma once

#include <cuda_runtime.h>

#include "machine/cuda/check_cuda.hpp"
#include "terrazzo/arch/sm90/machine.hpp"

namespace terrazzo::testing {

inline constexpr bool kHasTensorCore = true;  // products have an H100's bits

template <class Body>
__global__ void __launch_bounds__(sm90::kConsumerThreads)
    run_body(const __grid_constant__ Body body) {
  extern __shared__ std::byte shared_bytes[];
  constexpr uint64_t kAlign = alignof(typename Body::Memory);
  const auto begin = reinterpret_cast<uint64_t>(shared_bytes);
  body(*reinterpret_cast<typename Body::Memory*>((begin + kAlign - 1) / kAlign * kAlign));
}

/// Calls `body(memory)` in each thread, with a `Body::Memory` in shared memory, and waits.
template <class Body>
void launch_block(const Body& body) {
  constexpr uint32_t kBytes = sizeof(typename Body::Memory) + alignof(typename Body::Memory);
  cuda::check_cuda(
      cudaFuncSetAttribute(run_body<Body>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes));
  run_body<Body><<<1, sm90::kConsumerThreads, kBytes>>>(body);
  cuda::check_cuda(cudaGetLastError());
  cuda::check_cuda(cudaDeviceSynchronize());
}

}  // namespace terrazzo::testing
