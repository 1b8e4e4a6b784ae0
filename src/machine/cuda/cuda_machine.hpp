// The CUDA machine: one GPU, one launch a step.
#pragma once

#include <cuda_runtime.h>

#include <memory>
#include <vector>

#include "lower/lowered_step.hpp"
#include "machine/cuda/device_memory.hpp"
#include "machine/packed_model.hpp"
#include "terrazzo/arch/sm90/launch_view.hpp"

namespace terrazzo::cuda {

struct CudaOptions {
  uint32_t num_sms = 0;  // 0: all of the device
  uint64_t watchdog_ns = 10'000'000'000;
};

/// A launch that the watchdog ended; the machine can go on.
class WatchdogError : public Error {
 public:
  using Error::Error;
};

/// Owns the heap and the weights on one device. One step at a time.
class CudaMachine {
 public:
  CudaMachine(const ModelShape& shape, const StepLimits& limits, const CudaOptions& options);
  ~CudaMachine();

  const HeapLayout& layout() const { return layout_; }
  uint32_t num_sms() const { return num_sms_; }

  void set_model(const PackedModel& model, const SharedTables& tables);

  /// Copies the step's programs and tables to the device.
  void upload(const LoweredStep& step);
  /// Launches the uploaded step on the machine's stream; asynchronous.
  void launch();
  /// Waits for the launched step. Throws WatchdogError with the place that gave up.
  void wait();

  /// upload, launch, wait.
  void run(const LoweredStep& step);

  cudaStream_t stream() const { return stream_; }
  /// Copies bytes of a heap buffer to the host, after all launched steps.
  void read(Buffer buffer, uint64_t offset, void* target, uint64_t bytes);
  void write(Buffer buffer, uint64_t offset, const void* source, uint64_t bytes);

 private:
  DeviceMemory upload_bytes(const void* source, size_t bytes);

  ModelShape shape_;
  StepLimits limits_;
  CudaOptions options_;
  HeapLayout layout_;
  uint32_t num_sms_ = 0;
  cudaStream_t stream_ = nullptr;
  DeviceMemory heap_;
  DeviceMemory weights_[kNumMatrices];
  DeviceMemory embedding_, final_norm_, rope_;
  DeviceMemory program_;
  DeviceMemory abort_flag_;
  MappedMemory report_;
  ModelView model_{};
  StepParams params_{};
  LoweredStep const* step_ = nullptr;
  uint32_t bank_ = 0;
};

}  // namespace terrazzo::cuda
