// Every CUDA call goes through `check_cuda`.
#pragma once

#include <cuda_runtime.h>

#include <source_location>

#include "terrazzo/core/check.hpp"

namespace terrazzo::cuda {

/// Throws `Error` with the call's place and CUDA's own words.
inline void check_cuda(cudaError_t status,
                       const std::source_location& place = std::source_location::current()) {
  if (status != cudaSuccess) {
    fail("cuda", place.file_name(), ":", place.line(), ": ", cudaGetErrorName(status), ": ",
         cudaGetErrorString(status));
  }
}

}  // namespace terrazzo::cuda
