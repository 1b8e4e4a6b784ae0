// The CUDA machine in a build with one; no_cuda.cpp is compiled where this is not.
#include "machine/cuda/cuda.hpp"

namespace terrazzo {

bool cuda_built() { return true; }

}  // namespace terrazzo
