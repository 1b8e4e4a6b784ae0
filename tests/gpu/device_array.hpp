// Memory of a GPU test's kernels.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <vector>

#include "machine/cuda/check_cuda.hpp"

namespace terrazzo::testing {

/// An array on the device; begins as 0xff bytes unless made of values.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size) : size_(size) {
    cuda::check_cuda(cudaMalloc(&data_, std::max<size_t>(size, 1) * sizeof(T)));
    cuda::check_cuda(cudaMemset(data_, 0xff, size * sizeof(T)));
  }
  explicit DeviceArray(const std::vector<T>& values) : DeviceArray(values.size()) {
    cuda::check_cuda(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(data_); }

  T* get() { return data_; }
  std::vector<T> read() const {
    std::vector<T> values(size_);
    cuda::check_cuda(cudaMemcpy(values.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

}  // namespace terrazzo::testing
