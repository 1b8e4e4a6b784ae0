// One step's place on the way to the device and back: its program and tables in pinned memory and
// on the device, and what comes back from it.
#pragma once

#include "lower/lowered_step.hpp"
#include "machine/cuda/device_memory.hpp"
#include "machine/cuda/handles.hpp"
#include "terrazzo/arch/sm90/launch_view.hpp"
#include "terrazzo/core/heap.hpp"

namespace terrazzo::cuda {

/// A step that is on the device: what its launch needs to know, and its diagnosis.
struct UploadedStep {
  StepTables tables;    // the device's
  ProgramView program;  // the device's
  CounterMap counters;
  uint32_t num_wanted_logits;
};

class StepSlot {
 public:
  /// Room for `bytes` of program and tables and for `rows` sampled tokens.
  StepSlot(uint64_t bytes, uint32_t rows);

  /// Copies a step's program and tables to the device, asynchronously on `stream`; `step` may go
  /// away at once. The slot's last step must have ended. A step that is larger than any before it
  /// gets new memory first, twice what it needs: that waits for the device.
  void upload(const LoweredStep& step, cudaStream_t stream);
  const UploadedStep& step() const { return step_; }

  /// Copies results off the device, asynchronously on `stream`: the sampled tokens, and
  /// [num_wanted_logits, logits_cols] from the start of the heap's logits. `reserve_logits` goes
  /// first, before the step is launched.
  void reserve_logits(uint32_t logits_cols);
  void fetch(const std::byte* heap, const HeapLayout& layout, uint32_t logits_cols,
             cudaStream_t stream);
  const SampledToken* sampled() const { return sampled_.as<SampledToken>(); }
  const float* logits() const { return logits_.as<float>(); }

  /// What the watchdog saw in this slot's step; kernels write to it.
  sm90::WatchdogReport& report() const { return *report_.as<sm90::WatchdogReport>(); }

  Event uploaded;
  Event begun{cudaEventDefault};
  Event ended{cudaEventDefault};  // results included

 private:
  PinnedMemory host_;
  DeviceMemory device_;
  PinnedMemory sampled_;
  PinnedMemory logits_;
  PinnedMemory report_;
  UploadedStep step_{};
};

}  // namespace terrazzo::cuda
