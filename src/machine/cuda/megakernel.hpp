// The kernel, as the rest of the CUDA machine sees it.
#pragma once

#include <cuda_runtime.h>

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
struct LaunchParams {
  RankParams ranks[kMaxGpus];
};
inline constexpr size_t kMaxParamBytes = 32764;  // of a kernel
static_assert(sizeof(LaunchParams) <= kMaxParamBytes);

/// The kernel for one size of head.
template <uint32_t kHeadPanels>
struct Megakernel {
  /// Raises the kernel's shared-memory limit and loads it on the current device.
  static void prepare();
  /// The first `ranks` of `params` on `stream`, each on `blocks` SMs. Asynchronous.
  static void launch(const LaunchParams& params, uint32_t ranks, uint32_t blocks,
                     cudaStream_t stream);
};

extern template struct Megakernel<1>;  // megakernel_64.cu
extern template struct Megakernel<2>;  // megakernel_128.cu

inline void prepare_megakernel(const ModelShape& shape) {
  shape.head_panels() == 1 ? Megakernel<1>::prepare() : Megakernel<2>::prepare();
}

inline void launch_megakernel(const LaunchParams& params, uint32_t ranks, uint32_t blocks,
                              cudaStream_t stream) {
  params.ranks[0].step.shape.head_panels() == 1
      ? Megakernel<1>::launch(params, ranks, blocks, stream)
      : Megakernel<2>::launch(params, ranks, blocks, stream);
}

}  // namespace terrazzo::cuda
