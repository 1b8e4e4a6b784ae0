// The megakernel for heads of 64, one rank a launch.
#include "machine/cuda/megakernel.cuh"

namespace terrazzo::cuda {

template struct Megakernel<1, 1>;

}  // namespace terrazzo::cuda
