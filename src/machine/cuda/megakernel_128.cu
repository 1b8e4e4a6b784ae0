// The megakernel for heads of 128, one rank a launch.
#include "machine/cuda/megakernel.cuh"

namespace terrazzo::cuda {

template struct Megakernel<2, 1>;

}  // namespace terrazzo::cuda
