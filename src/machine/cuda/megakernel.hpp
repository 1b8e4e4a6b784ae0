// The kernel, as the rest of the CUDA machine sees it.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <span>

#include "terrazzo/arch/sm90/launch_view.hpp"
#include "terrazzo/vm/params.hpp"

namespace terrazzo::cuda {

/// Threads of a block: 4 service warps and 2 consumer warpgroups.
inline constexpr uint32_t kBlockThreads = 384;

/// What one rank of a launch is given.
struct RankParams {
  StepParams step;
  sm90::LaunchView view;
};

/// The ranks of a launch: block (x, y) is SM x of the y-th.
template <uint32_t kMostRanks>
struct LaunchParams {
  RankParams ranks[kMostRanks];
};
inline constexpr size_t kMaxParamBytes = 32764;  // of a kernel
static_assert(sizeof(LaunchParams<kMaxGpus>) <= kMaxParamBytes);

/// The kernel for one size of head. With one rank all parameters are constants at known places;
/// looking them up by rank would cost a step of few rows 1.6%, so there is a second one for that.
template <uint32_t kHeadPanels, uint32_t kMostRanks>
struct Megakernel {
  /// Raises the kernel's shared-memory limit and loads it on the current device.
  static void prepare();
  /// The first `ranks` of `params` on `stream`, each on `blocks` SMs. Asynchronous.
  static void launch(const LaunchParams<kMostRanks>& params, uint32_t ranks, uint32_t blocks,
                     cudaStream_t stream);
};

extern template struct Megakernel<1, 1>;         // megakernel_64.cu
extern template struct Megakernel<2, 1>;         // megakernel_128.cu
extern template struct Megakernel<1, kMaxGpus>;  // megakernel_64_ranks.cu
extern template struct Megakernel<2, kMaxGpus>;  // megakernel_128_ranks.cu

/// Calls f(kernel) with a Megakernel that can run `ranks` ranks in a launch.
template <class F>
void with_megakernel(const ModelShape& shape, uint32_t ranks, F f) {
  if (shape.head_panels() == 1) {
    ranks == 1 ? f(Megakernel<1, 1>{}) : f(Megakernel<1, kMaxGpus>{});
  } else {
    ranks == 1 ? f(Megakernel<2, 1>{}) : f(Megakernel<2, kMaxGpus>{});
  }
}

inline void prepare_megakernel(const ModelShape& shape, uint32_t ranks) {
  with_megakernel(shape, ranks, [](auto kernel) { kernel.prepare(); });
}

/// One launch of these ranks, each on `blocks` SMs.
inline void launch_megakernel(std::span<const RankParams> ranks, uint32_t blocks,
                              cudaStream_t stream) {
  const auto count = static_cast<uint32_t>(ranks.size());
  with_megakernel(
      ranks[0].step.shape, count,
      [&]<uint32_t kHeadPanels, uint32_t kMostRanks>(Megakernel<kHeadPanels, kMostRanks> kernel) {
        LaunchParams<kMostRanks> params{};
        std::copy(ranks.begin(), ranks.end(), params.ranks);
        kernel.launch(params, count, blocks, stream);
      });
}

}  // namespace terrazzo::cuda
