// The megakernel for heads of 128, several ranks a launch.
#include "machine/cuda/megakernel.cuh"

namespace terrazzo::cuda {

template struct Megakernel<2, kMaxGpus>;

}  // namespace terrazzo::cuda
