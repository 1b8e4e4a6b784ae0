// One step's place on the way to a device and back: the programs and tables of the device's ranks
// in pinned memory and on the device, and what comes back from it.
#pragma once

#include <compare>
#include <string>
#include <vector>

#include "lower/lowered_step.hpp"
#include "machine/cuda/device_memory.hpp"
#include "machine/cuda/handles.hpp"
#include "terrazzo/arch/sm90/launch_view.hpp"
#include "terrazzo/core/heap.hpp"

namespace terrazzo::cuda {

/// One rank's part of a step, on its device.
struct UploadedStep {
  StepTables tables;
  ProgramView program;
};

/// How far an SM has come. Queues of ranks are not of equal length, their layers are the same.
struct StepProgress {
  bool begun = false;  // has claimed an instruction
  int32_t layer = 0;   // of it
  double share = 0;    // of its rank's queue

  auto operator<=>(const StepProgress&) const = default;
};

class StepSlot {
 public:
  /// For the ranks from `first_rank` on, of `num_sms` SMs each, with room for `rank_bytes` of
  /// program and tables each. On the current device.
  StepSlot(uint32_t first_rank, uint32_t num_ranks, uint32_t num_sms, uint64_t rank_bytes);

  /// Copies a step's programs and tables to the device, asynchronously on `stream`; `step` may go
  /// away at once. The slot's last step must have ended. A step that is larger than any before it
  /// gets new memory first, twice what it needs: that waits for the device.
  void upload(const LoweredStep& step, cudaStream_t stream);
  /// Of the device's memory.
  uint64_t capacity_bytes() const { return device_.bytes(); }
  const UploadedStep& step(uint32_t local_rank) const { return steps_[local_rank]; }

  /// What the watchdog of a rank saw in this slot's step; kernels write to it.
  sm90::WatchdogReport& report(uint32_t local_rank) const {
    return report_.as<sm90::WatchdogReport>()[local_rank];
  }
  void clear_reports() const;

  /// [SMs] of a rank: the queue position that each claimed last in this slot's step; kernels write.
  uint32_t* last_claims(uint32_t local_rank) const {
    return last_claims_.as<uint32_t>() + local_rank * num_sms_;
  }
  /// The same in words, a line an SM that has claimed an instruction.
  std::string last_instructions() const;
  /// The least advanced of these.
  StepProgress furthest_behind() const;

  Event uploaded;
  Event begun{cudaEventDefault};
  Event ended{cudaEventDefault};  // results included

 private:
  uint32_t first_rank_;
  uint32_t num_sms_;
  PinnedMemory host_;
  DeviceMemory device_;
  PinnedMemory report_;
  PinnedMemory last_claims_;
  std::vector<UploadedStep> steps_;
  std::vector<ProgramView> host_programs_;
};

}  // namespace terrazzo::cuda
