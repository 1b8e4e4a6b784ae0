// The CUDA machine in a build without one.
#include "machine/cuda/cuda.hpp"

namespace terrazzo {

bool cuda_built() { return false; }

}  // namespace terrazzo
