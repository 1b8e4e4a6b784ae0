// The CUDA machine: one GPU, one launch a step, and up to two steps on their way.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <memory>
#include <vector>

#include "lower/lowered_step.hpp"
#include "machine/cuda/device_memory.hpp"
#include "machine/cuda/step_slot.hpp"
#include "machine/cuda/weight_store.hpp"
#include "terrazzo/core/trace_event.hpp"

namespace terrazzo::cuda {

struct CudaOptions {
  uint32_t num_sms = 0;  // 0: all of the device but `reserve_sms`
  uint64_t watchdog_ns = 10'000'000'000;
  uint32_t reserve_sms = 0;       // left to other streams
  cudaStream_t stream = nullptr;  // that runs the steps; null: one of the machine's own
  uint32_t trace_events = 0;      // most events kept of a step; 0: no trace
};

/// A launch that the watchdog ended; the machine can go on.
class WatchdogError : public MachineError {
 public:
  using MachineError::MachineError;
};

/// Owns the heap and the weights on one device: the one that is current when it is made. Belongs to
/// one thread at a time, which may be another one each time.
class CudaMachine {
 public:
  /// Steps that have a place: one that is collected, one that runs, one that is prepared.
  static constexpr uint32_t kNumSlots = 3;

  CudaMachine(const ModelShape& shape, const StepLimits& limits, const CudaOptions& options);
  ~CudaMachine();

  const ModelShape& shape() const { return shape_; }
  const StepLimits& limits() const { return limits_; }
  const HeapLayout& layout() const { return layout_; }
  uint32_t num_sms() const { return num_sms_; }
  cudaStream_t stream() const { return stream_; }
  void set_watchdog_ns(uint64_t limit) { options_.watchdog_ns = limit; }

  WeightStore& weights() { return weights_; }
  void set_model(const PackedModel& model, const SharedTables& tables);

  /// Copies the step's program and tables towards the device and gives the number of its slot.
  /// Waits if that slot's last step has not ended.
  uint32_t upload(const LoweredStep& step);
  /// Launches the last uploaded step on the machine's stream; asynchronous. Sampled tokens and
  /// wanted logits follow it to the host if `fetch`. `begin` is recorded right before the kernel,
  /// behind all that the launch waits for.
  void launch(bool fetch = false, Event* begin = nullptr);
  /// Waits for the last launch. Throws WatchdogError with the place that
  /// gave up; then later launches are void too, and all of them have ended.
  void wait() {
    wait_until_ended(slot_);
    check_ended(slot_);
  }
  /// The two halves of `wait`, for any slot. The first may run beside other calls.
  void wait_until_ended(uint32_t slot) const;
  void check_ended(uint32_t slot);

  /// upload, launch, wait.
  void run(const LoweredStep& step);

  /// Results of a slot's step that was launched with `fetch`, once waited for. Logits are
  /// [num_wanted_logits, logits_cols()].
  const SampledToken* sampled(uint32_t slot) const { return slots_[slot]->sampled(); }
  const float* logits(uint32_t slot) const { return slots_[slot]->logits(); }
  uint32_t logits_cols() const { return shape_.vocab_panels() * kPanelCols; }
  /// Time on the device from the start of the slot's launch until its results were off, in ms.
  float elapsed_ms(uint32_t slot) const;
  /// Events of the last step, with options.trace_events; waits for it.
  std::vector<TraceEvent> events();

  /// Copies bytes of a heap buffer to the host, after all launched steps.
  void read(Buffer buffer, uint64_t offset, void* target, uint64_t bytes);
  /// The other way; `source` may be the device's memory too.
  void write(Buffer buffer, uint64_t offset, const void* source, uint64_t bytes);

 private:
  StepParams params_of(const UploadedStep& step) const;
  void recover();
  void use_device() const;

  ModelShape shape_;
  StepLimits limits_;
  CudaOptions options_;
  HeapLayout layout_;
  int device_ = 0;
  uint32_t num_sms_ = 0;
  Stream own_stream_;
  Stream copies_;  // programs and cleared counters travel beside the running step
  cudaStream_t stream_ = nullptr;
  Event cleared_;
  WeightStore weights_;
  DeviceMemory heap_;
  DeviceMemory abort_flag_;
  PinnedMemory zeros_;  // as large as a bank
  DeviceMemory trace_;  // a count, then the events
  std::array<std::unique_ptr<StepSlot>, kNumSlots> slots_;
  uint32_t slot_ = 0;
  uint32_t bank_ = 0;
  uint64_t used_bytes_[2] = {};  // of each bank, by its last step; 0 once it is cleared
};

}  // namespace terrazzo::cuda
