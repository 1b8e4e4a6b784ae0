// What the programs in this folder do where there is no GPU for them: say so, and exit with a code
// that ctest shows as skipped.
#pragma once

#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace terrazzo::testing {

inline constexpr int kSkipCode = 77;  // SKIP_RETURN_CODE in CMakeLists.txt

/// Ends the program unless the current device can run code for sm_90a and there are `gpus` devices:
/// skipped, or failed where TERRAZZO_REQUIRE_GPU=1. The first statement of a `main` that runs.
inline void require_gpu(int gpus = 1) {
  const char* reason = "no device of compute capability 9.0";
  int device = 0;
  int devices = 0;
  int major = 0;
  int minor = 0;
  if (const cudaError_t status = cudaGetDevice(&device); status != cudaSuccess) {
    reason = cudaGetErrorString(status);
  } else if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < gpus) {
    reason = "too few devices";
  } else if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) ==
                 cudaSuccess &&
             cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) ==
                 cudaSuccess &&
             major == 9 && minor == 0) {
    return;
  }
  const char* const required = std::getenv("TERRAZZO_REQUIRE_GPU");
  const bool fails = required != nullptr && std::strcmp(required, "1") == 0;
  std::printf("%s: needs %d H100: %s\n", fails ? "FAIL" : "SKIP", gpus, reason);
  std::exit(fails ? 1 : kSkipCode);
}

}  // namespace terrazzo::testing
