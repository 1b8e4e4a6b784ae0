// Owned memory on a device, and host memory that copies do not have to stage.
#pragma once

#include <cstddef>
#include <utility>

#include "machine/cuda/check_cuda.hpp"

namespace terrazzo::cuda {

class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(size_t bytes) : bytes_(bytes) {
    if (bytes != 0) {
      check_cuda(cudaMalloc(&data_, bytes));
    }
  }
  DeviceMemory(DeviceMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  DeviceMemory& operator=(DeviceMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~DeviceMemory() { cudaFree(data_); }

  std::byte* data() const { return static_cast<std::byte*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

/// Page-locked and mapped: the device writes reports into it while kernels run.
class MappedMemory {
 public:
  explicit MappedMemory(size_t bytes) {
    check_cuda(cudaHostAlloc(&data_, bytes, cudaHostAllocMapped | cudaHostAllocPortable));
  }
  MappedMemory(const MappedMemory&) = delete;
  MappedMemory& operator=(const MappedMemory&) = delete;
  ~MappedMemory() { cudaFreeHost(data_); }

  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

}  // namespace terrazzo::cuda
