// Appends instructions to the programs of a step and keeps the sums of all signals, from which the
// targets of the waits follow.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "lower/lowered_step.hpp"

namespace terrazzo {

class Emitter {
 public:
  /// Clears the programs; their storage is reused.
  Emitter(LoweredStep& step, uint32_t world);

  void select(uint32_t gpu, Segment segment);

  /// Appends an instruction to the selected segment; the reference lives until the next `emit`.
  Instruction& emit(Opcode opcode, uint8_t flags = 0);

  /// Target: the sum of all signals, filled in by `set_targets`.
  void wait(Instruction& instruction, int32_t first, uint32_t count = 1) const;

  /// Adds `increment` by each storer to one counter on every GPU of the mask.
  void signal(Instruction& instruction, int32_t counter, uint32_t increment, uint32_t gpus);

  uint32_t own() const { return 1u << gpu_; }
  uint32_t all() const { return (1u << world_) - 1; }

  /// Gives every wait its target. Throws `Error` where no single target fits: a run of counters
  /// with unequal sums, or body counters that differ between the prologue and a layer.
  void set_targets();

 private:
  uint32_t& sum(uint32_t gpu, Segment segment, uint32_t counter) {
    return sums_[(gpu * kNumSegments + static_cast<uint32_t>(segment)) * block_ + counter];
  }
  uint32_t target_of(uint32_t gpu, Segment segment, int32_t counter);

  LoweredStep& step_;
  uint32_t world_;
  uint32_t block_;  // counters of a block
  uint32_t gpu_ = 0;
  Segment segment_ = Segment::kPrologue;
  std::vector<uint32_t> sums_;  // [gpu][segment][counter of a block]
};

}  // namespace terrazzo
