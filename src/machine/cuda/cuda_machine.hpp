// The CUDA machine: one launch a GPU and step, and up to two steps on their way.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <memory>
#include <vector>

#include "lower/lowered_step.hpp"
#include "machine/cuda/device_ranks.hpp"
#include "terrazzo/core/trace_event.hpp"

namespace terrazzo::cuda {

/// A launch that the watchdog ended; the machine can go on.
class WatchdogError : public MachineError {
 public:
  using MachineError::MachineError;
};

/// Owns heaps and weights of `shape.world` ranks, on as many GPUs or, with `ranks_per_gpu`, on
/// fewer: from the device on that is current when it is made. Belongs to one thread at a time,
/// which may be another one each time.
class CudaMachine {
 public:
  static constexpr uint32_t kNumSlots = DeviceRanks::kNumSlots;

  CudaMachine(const ModelShape& shape, const StepLimits& limits, const CudaOptions& options);
  ~CudaMachine();

  const ModelShape& shape() const { return shape_; }
  const StepLimits& limits() const { return limits_; }
  const HeapLayout& layout() const { return layout_; }
  /// SMs of a rank.
  uint32_t num_sms() const { return num_sms_; }
  uint32_t num_devices() const { return static_cast<uint32_t>(devices_.size()); }
  /// Of a device's memory, for the programs of steps: grows with the largest.
  uint64_t program_bytes(uint32_t device) const {
    uint64_t bytes = 0;
    for (uint32_t slot = 0; slot < kNumSlots; ++slot) {
      bytes += devices_[device]->slot(slot).capacity_bytes();
    }
    return bytes;
  }
  /// Calls of the runtime go to that device from now on.
  void use_device(uint32_t device) const { devices_[device]->use(); }
  void use_device_of(uint32_t rank) const { device_of(rank).use(); }
  /// That runs the steps of a device.
  cudaStream_t stream(uint32_t device = 0) const { return devices_[device]->stream(); }
  void set_watchdog_ns(uint64_t limit) { options_.watchdog_ns = limit; }
  void set_delays(const sm90::DelayPlan& delays) { options_.delays = delays; }

  WeightStore& weights(uint32_t rank = 0) { return rank_at(rank).weights; }
  void set_model(const PackedModel& model, const SharedTables& tables, uint32_t rank = 0);

  /// Copies the step's programs and tables towards the devices and gives the number of its slot.
  /// Waits if that slot's last step has not ended.
  uint32_t upload(const LoweredStep& step);
  /// Launches the last uploaded step on all devices; asynchronous. Sampled tokens and wanted logits
  /// follow it to the host if `fetch`. `begin` is recorded right before the first device's kernel,
  /// behind all that the launch waits for. Where the launch of one device fails, the others' are
  /// stopped; then steps in flight are void, as after a failed `wait`.
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
  const SampledToken* sampled(uint32_t slot) const { return results_[slot]->sampled(); }
  const float* logits(uint32_t slot) const { return results_[slot]->logits(); }
  uint32_t logits_cols() const { return shape_.world * shape_.vocab_panels() * kPanelCols; }
  /// Time on the first device from the start of the slot's launch until its results were off, in
  /// ms.
  float elapsed_ms(uint32_t slot) const;
  /// Events of the last step, with options.trace_events; waits for it. Clocks of GPUs differ.
  std::vector<TraceEvent> events();

  /// Where a heap buffer lies on its device, for work queued on the device's stream.
  std::byte* address(Buffer buffer, uint32_t rank = 0) const {
    return rank_at(rank).at(layout_, buffer);
  }
  /// Copies bytes of a heap buffer to the host, after all launched steps.
  void read(Buffer buffer, uint64_t offset, void* target, uint64_t bytes, uint32_t rank = 0);
  /// The other way; `source` may be the device's memory too.
  void write(Buffer buffer, uint64_t offset, const void* source, uint64_t bytes, uint32_t rank = 0);

 private:
  DeviceRanks& device_of(uint32_t rank) const { return *devices_[rank / options_.ranks_per_gpu]; }
  Rank& rank_at(uint32_t rank) const { return device_of(rank).rank(rank % options_.ranks_per_gpu); }
  std::vector<RankParams> params_of(const DeviceRanks& device) const;
  void launch_all();
  void clear_other_bank();
  /// The step that a device was in when it was lost: of those in flight the last that has claims.
  const StepSlot& last_begun(const DeviceRanks& device) const;
  void drain() const;
  void recover();

  ModelShape shape_;
  StepLimits limits_;
  uint32_t num_ranks_;  // that exist
  CudaOptions options_;
  HeapLayout layout_;
  uint32_t num_sms_ = 0;
  PinnedMemory zeros_;  // as large as a bank
  PinnedMemory one_;    // a raised flag
  std::vector<std::unique_ptr<DeviceRanks>> devices_;
  std::array<std::unique_ptr<StepResults>, kNumSlots> results_;
  std::unique_ptr<Event> all_clear_;
  uint32_t slot_ = 0;
  uint32_t bank_ = 0;
  uint64_t used_bytes_[2] = {};  // of each bank, by its last step; 0 once it is cleared
};

}  // namespace terrazzo::cuda
