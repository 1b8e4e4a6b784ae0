// The megakernel: every SM runs the role loops until the step's queue is empty. One kernel a head
// dimension and way to find a rank's parameters, each in a translation unit of its own.
#pragma once

#include "machine/cuda/check_cuda.hpp"
#include "machine/cuda/megakernel.hpp"
#include "terrazzo/instructions/set.hpp"
#include "terrazzo/tile/sm90/machine.hpp"
#include "terrazzo/vm/interpreter.hpp"

namespace terrazzo::cuda {

// A block has what it was launched with: asking for more waits for ever.
constexpr int kLaunchRegisters = 168;  // of a thread: 64K / 384, in units of 8
constexpr int kServiceRegisters = 88;
constexpr int kConsumerRegisters = 208;
static_assert(128 * kServiceRegisters + 256 * kConsumerRegisters <=
              kBlockThreads * kLaunchRegisters);

template <uint32_t kHeadPanels, uint32_t kMostRanks>
__global__ void __launch_bounds__(kBlockThreads, 1)
    megakernel(const __grid_constant__ LaunchParams<kMostRanks> all) {
  const RankParams& rank = all.ranks[kMostRanks == 1 ? 0 : blockIdx.y];
  const StepParams& params = rank.step;
  const sm90::LaunchView& launch = rank.view;
  using Machine = sm90::TileMachine<kHeadPanels>;
  extern __shared__ std::byte storage[];
  auto& shared = *reinterpret_cast<sm90::SharedStorage*>(storage);
  if (threadIdx.x == 0) {
    shared.init();
  }
  __syncthreads();
  const uint32_t warp = threadIdx.x / sm90::kWarpThreads;
  const uint32_t lane = threadIdx.x % sm90::kWarpThreads;
  const auto role_of = [&](RoleKind kind) {
    return sm90::Role(shared, launch, kind, blockIdx.x, lane);
  };
  if (warp < 4) {
    sm90::setmaxnreg_dec<kServiceRegisters>();
    if (warp == 0) {
      auto role = role_of(RoleKind::kController);
      run_controller<Machine>(role, params);
    } else if (warp == 1) {
      auto role = role_of(RoleKind::kLoader);
      run_loader<Machine, LlamaInstructions>(role, params);
      role.drain();
    } else {
      const uint32_t index = warp - 2;
      auto role = role_of(index == 0 ? RoleKind::kStorer0 : RoleKind::kStorer1);
      run_storer<Machine, LlamaInstructions>(role, params, index);
    }
  } else {
    sm90::setmaxnreg_inc<kConsumerRegisters>();
    const uint32_t index = warp / 4 - 1;
    auto role = role_of(index == 0 ? RoleKind::kConsumer0 : RoleKind::kConsumer1);
    run_consumer<Machine, LlamaInstructions>(role, params, index);
  }
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
