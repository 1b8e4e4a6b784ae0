// The megakernel for heads of 64.
#include "machine/cuda/megakernel.cuh"

namespace terrazzo::cuda {

template struct Megakernel<1>;

}  // namespace terrazzo::cuda
