#include <algorithm>
#include <sstream>

#include "machine/cuda/check_cuda.hpp"
#include "machine/cuda/cuda.hpp"
#include "machine/cuda/devices.hpp"

namespace terrazzo::cuda {
namespace {

// What the kernel is compiled for: sm_90a runs on 9.0 only.
constexpr int kComputeMajor = 9;
constexpr int kComputeMinor = 0;

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

/// Why the kernel does not run on a GPU that is there; empty if it does.
std::string kind_problem(int gpu) {
  cudaDeviceProp properties{};
  check_cuda(cudaGetDeviceProperties(&properties, gpu));
  if (properties.major == kComputeMajor && properties.minor == kComputeMinor) {
    return {};
  }
  std::ostringstream out;
  out << "the kernel is compiled for compute capability " << kComputeMajor << '.' << kComputeMinor
      << " (H100, H200, GH200), but the GPU " << properties.name << " has " << properties.major
      << '.' << properties.minor << "; choose another one with CUDA_VISIBLE_DEVICES";
  return out.str();
}

}  // namespace

std::string device_problem(uint32_t num_gpus) {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  std::ostringstream out;
  if (status == cudaErrorInsufficientDriver) {
    int driver = 0;
    int runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) {
      out << "there is no NVIDIA driver (libcuda.so.1); install one for CUDA "
          << version_text(runtime) << " or later";
    } else {
      out << "the NVIDIA driver knows CUDA " << version_text(driver) << " at most; install one for "
          << version_text(runtime) << " or later";
    }
    return out.str();
  }
  if (status == cudaErrorNoDevice || (status == cudaSuccess && count == 0)) {
    return "the driver shows no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES";
  }
  if (status != cudaSuccess) {
    out << "the driver does not start: " << cudaGetErrorName(status) << ": "
        << cudaGetErrorString(status) << "; see nvidia-smi";
    return out.str();
  }
  for (int gpu = 0; gpu < std::min(count, static_cast<int>(num_gpus)); ++gpu) {
    if (std::string problem = kind_problem(gpu); !problem.empty()) {
      return problem;
    }
  }
  return peer_problem(num_gpus);
}

DeviceInfo device_info(uint32_t gpu) {
  const std::string problem = device_problem(gpu + 1);
  check(problem.empty(), "cuda", problem);
  cudaDeviceProp properties{};
  int driver = 0;
  int runtime = 0;
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  const auto number = static_cast<int>(gpu);
  check_cuda(cudaGetDeviceProperties(&properties, number));
  check_cuda(cudaDriverGetVersion(&driver));
  check_cuda(cudaRuntimeGetVersion(&runtime));
  check_cuda(cudaSetDevice(number));
  check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes));
  return {.name = properties.name,
          .num_sms = static_cast<uint32_t>(properties.multiProcessorCount),
          .compute_major = static_cast<uint32_t>(properties.major),
          .compute_minor = static_cast<uint32_t>(properties.minor),
          .total_bytes = total_bytes,
          .free_bytes = free_bytes,
          .driver_version = static_cast<uint32_t>(driver),
          .runtime_version = static_cast<uint32_t>(runtime)};
}

}  // namespace terrazzo::cuda
