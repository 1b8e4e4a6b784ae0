#include "machine/cuda/devices.hpp"

#include <cstdlib>
#include <cstring>
#include <sstream>

#include "machine/cuda/check_cuda.hpp"
#include "terrazzo/core/check.hpp"

namespace terrazzo::cuda {
namespace {

bool launches_block() {
  const char* const value = std::getenv("CUDA_LAUNCH_BLOCKING");
  return value != nullptr && *value != '\0' && std::strcmp(value, "0") != 0;
}

bool reaches(int gpu, int peer) {
  int can = 0;
  check_cuda(cudaDeviceCanAccessPeer(&can, gpu, peer));
  return can != 0;
}

/// Empty if each of the devices reaches the memory of all others.
std::string access_problem(const std::vector<int>& devices) {
  std::ostringstream out;
  for (const int gpu : devices) {
    for (const int peer : devices) {
      if (gpu != peer && !reaches(gpu, peer)) {
        out << "GPU " << gpu << " cannot reach the memory of GPU " << peer
            << " (peer access); choose GPUs of one NVLink domain with CUDA_VISIBLE_DEVICES, see "
               "nvidia-smi topo -p2p n";
        return out.str();
      }
    }
  }
  return {};
}

std::vector<int> devices_from(int first, uint32_t num_gpus) {
  std::vector<int> devices;
  for (uint32_t i = 0; i < num_gpus; ++i) {
    devices.push_back(first + static_cast<int>(i));
  }
  return devices;
}

std::string problem_of(const std::vector<int>& devices) {
  if (devices.size() == 1) {
    return {};
  }
  if (launches_block()) {
    return "CUDA_LAUNCH_BLOCKING is set: the first GPU's launch would wait for the others', which "
           "come after it; unset it";
  }
  int count = 0;
  check_cuda(cudaGetDeviceCount(&count));
  if (devices.back() >= count) {
    std::ostringstream out;
    out << devices.size() << " GPUs are wanted, the driver shows " << count
        << "; take fewer, or see nvidia-smi and CUDA_VISIBLE_DEVICES";
    return out.str();
  }
  return access_problem(devices);
}

}  // namespace

std::string peer_problem(uint32_t num_gpus) { return problem_of(devices_from(0, num_gpus)); }

std::vector<int> open_devices(uint32_t num_gpus) {
  int first = 0;
  check_cuda(cudaGetDevice(&first));
  const std::vector<int> devices = devices_from(first, num_gpus);
  const std::string problem = problem_of(devices);
  check(problem.empty(), "cuda machine", problem);
  for (const int gpu : devices) {
    check_cuda(cudaSetDevice(gpu));
    for (const int peer : devices) {
      if (gpu == peer) {
        continue;
      }
      const cudaError_t status = cudaDeviceEnablePeerAccess(peer, 0);
      if (status == cudaErrorPeerAccessAlreadyEnabled) {
        (void)cudaGetLastError();  // another machine's doing
      } else {
        check_cuda(status);
      }
    }
  }
  check_cuda(cudaSetDevice(first));
  return devices;
}

}  // namespace terrazzo::cuda
