// What the rest of the program may ask of the CUDA machine; no_cuda.cpp answers where it is absent.
#pragma once

namespace terrazzo {

/// True if this build contains the CUDA machine (not whether a GPU is present).
bool cuda_built();

}  // namespace terrazzo
