// The kernel, as the rest of the CUDA machine sees it.
#pragma once

#include <cuda_runtime.h>

#include "terrazzo/arch/sm90/launch_view.hpp"
#include "terrazzo/vm/params.hpp"

namespace terrazzo::cuda {

/// Threads of a block: 4 service warps and 2 consumer warpgroups.
inline constexpr uint32_t kBlockThreads = 384;

/// Raises the kernel's shared-memory limit and loads it on the current device.
void prepare_megakernel();

/// One block an SM on `stream`. Asynchronous.
void launch_megakernel(const StepParams& params, const sm90::LaunchView& launch, uint32_t blocks,
                       cudaStream_t stream);

}  // namespace terrazzo::cuda
