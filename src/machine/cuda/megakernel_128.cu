// The megakernel for heads of 128.
#include "machine/cuda/megakernel.cuh"

namespace terrazzo::cuda {

template struct Megakernel<2>;

}  // namespace terrazzo::cuda
