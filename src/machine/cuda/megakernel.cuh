// The megakernel: every SM runs the role loops until the step's queue is empty. One kernel a head
// dimension and way to find a rank's parameters, each in a translation unit of its own.
#pragma once

#include "machine/cuda/block.hpp"
#include "machine/cuda/check_cuda.hpp"

namespace terrazzo::cuda {

template <uint32_t kHeadPanels, uint32_t kMostRanks>
__global__ void __launch_bounds__(kBlockThreads, 1)
    megakernel(const __grid_constant__ LaunchParams<kMostRanks> all) {
  extern __shared__ std::byte storage[];
  run_thread<kHeadPanels>(*reinterpret_cast<sm90::SharedStorage*>(storage),
                          all.ranks[kMostRanks == 1 ? 0 : blockIdx.y], blockIdx.x, threadIdx.x);
}

template <uint32_t kHeadPanels, uint32_t kMostRanks>
void Megakernel<kHeadPanels, kMostRanks>::prepare() {
  check_cuda(cudaFuncSetAttribute(megakernel<kHeadPanels, kMostRanks>,
                                  cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  sizeof(sm90::SharedStorage)));
  cudaFuncAttributes attributes{};
  check_cuda(cudaFuncGetAttributes(&attributes, megakernel<kHeadPanels, kMostRanks>));
}

template <uint32_t kHeadPanels, uint32_t kMostRanks>
void Megakernel<kHeadPanels, kMostRanks>::launch(const LaunchParams<kMostRanks>& params,
                                                 uint32_t ranks, uint32_t blocks,
                                                 cudaStream_t stream) {
  // Ranks of one launch wait for each other: all blocks must run at once, or none.
  cudaLaunchAttribute together{};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = ranks > 1 ? 1 : 0;
  const cudaLaunchConfig_t config{.gridDim = dim3(blocks, ranks),
                                  .blockDim = dim3(kBlockThreads),
                                  .dynamicSmemBytes = sizeof(sm90::SharedStorage),
                                  .stream = stream,
                                  .attrs = &together,
                                  .numAttrs = 1};
  check_cuda(cudaLaunchKernelEx(&config, megakernel<kHeadPanels, kMostRanks>, params));
}

}  // namespace terrazzo::cuda
