// What the rest of the program may ask of the CUDA machine; no_cuda.cpp answers where it is absent.
#pragma once

#include <cstdint>
#include <string>

namespace terrazzo {

/// True if this build contains the CUDA machine (not whether a GPU is present).
bool cuda_built();

namespace cuda {

/// A GPU that the machine would run on.
struct DeviceInfo {
  std::string name;
  uint32_t num_sms;
  uint32_t compute_major;
  uint32_t compute_minor;
  uint64_t total_bytes;
  uint64_t free_bytes;
  uint32_t driver_version;   // newest CUDA that the driver knows: 1000 * major + 10 * minor
  uint32_t runtime_version;  // CUDA that this build contains
};

/// Why the CUDA machine cannot run on GPUs 0 .. num_gpus - 1, and the remedy; empty if it can.
std::string device_problem(uint32_t num_gpus = 1);

/// Of GPU `gpu`. Throws `Error` where there is a device problem.
DeviceInfo device_info(uint32_t gpu = 0);

}  // namespace cuda
}  // namespace terrazzo
