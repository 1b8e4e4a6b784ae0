// The megakernel for heads of 64, several ranks a launch.
#include "machine/cuda/megakernel.cuh"

namespace terrazzo::cuda {

template struct Megakernel<1, kMaxGpus>;

}  // namespace terrazzo::cuda
