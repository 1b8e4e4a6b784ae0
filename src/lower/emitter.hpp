// Appends instructions to the programs of a step and keeps the sums of all signals, from which the
// targets of the waits follow.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "lower/brief_runs.hpp"
#include "lower/lowered_step.hpp"
#include "terrazzo/core/check.hpp"
#include "terrazzo/core/geometry.hpp"

namespace terrazzo {

/// Inline, as a step has some ten thousand instructions. They are to be emitted in an order in
/// which they could run: all that signal a counter, on every GPU and in every segment, before those
/// that wait for it. Then each wait finds its target in the sums, and programs are written once.
class Emitter {
 public:
  /// Clears the programs; their storage is reused.
  Emitter(LoweredStep& step, uint32_t world);

  void select(uint32_t gpu, Segment segment);

  /// Appends an instruction to the selected segment; the reference lives until the next `emit`.
  Instruction& emit(Opcode opcode, uint8_t flags = 0) {
    num_brief_ += is_brief(opcode) ? 1 : 0;
    program_->push_back(kBlank);
    Instruction& instruction = program_->back();
    instruction.opcode = opcode;
    instruction.flags = flags;
    return instruction;
  }

  /// For counters [first, first + count), negative ones of the block before. The target is the sum
  /// of their signals; throws `Error` where these differ.
  void wait(Instruction& instruction, int32_t first, uint32_t count = 1) {
    for (Wait& wait : instruction.waits) {
      if (wait.count == 0) {
        const uint32_t target = sums_here_[first].signalled;
        for (uint32_t i = 0; i < count; ++i) {
          take(instruction, sums_here_[first + static_cast<int32_t>(i)], target);
        }
        wait = {first, static_cast<uint16_t>(count), 0, target};
        return;
      }
    }
    fail_full(instruction, "waits");
  }

  /// Adds `increment` by each storer to one counter on every GPU of the mask.
  void signal(Instruction& instruction, int32_t counter, uint32_t increment, uint32_t gpus) {
    for (uint32_t left = gpus; left != 0; left &= left - 1) {
      sum(static_cast<uint32_t>(std::countr_zero(left)), segment_, counter).signalled +=
          kNumConsumers * increment;  // one storer each
    }
    for (Signal& signal : instruction.signals) {
      if (signal.count == 0 && increment != 0) {
        const uint32_t part = std::min(increment, kMaxIncrement);
        signal = {counter, 1, static_cast<uint8_t>(part), static_cast<uint8_t>(gpus)};
        increment -= part;
      }
    }
    if (increment != 0) [[unlikely]] {
      fail_full(instruction, "signals of at most 255");
    }
  }

  uint32_t own() const { return 1u << gpu_; }
  uint32_t all() const { return (1u << world_) - 1; }
  /// Brief instructions of all GPUs.
  uint32_t num_brief() const { return num_brief_; }

  /// To be called when all has been emitted. Throws `Error` where a wait's target is not the sum of
  /// its counter: it was signalled later too, or differs between the prologue and a layer.
  void check_targets() const;

 private:
  static constexpr uint32_t kMaxIncrement = 255;
  // Copied with wide moves; a fresh `Instruction{}` is cleared by `rep stos`, which takes longer.
  static const Instruction kBlank;

  /// Of one counter.
  struct Sum {
    uint32_t signalled = 0;
    uint32_t waited_for = 0;  // the target of its waits; 0: none
  };

  /// Notes a wait for one counter.
  static void take(const Instruction& instruction, Sum& sum, uint32_t target) {
    if (sum.signalled != target || target == 0) [[unlikely]] {
      fail_unequal(instruction, sum.signalled, target);
    }
    sum.waited_for = target;
  }
  [[noreturn]] static void fail_unequal(const Instruction& instruction, uint32_t seen,
                                        uint32_t expected);
  [[noreturn]] static void fail_full(const Instruction& instruction, const char* what);

  Sum& sum(uint32_t gpu, Segment segment, int32_t counter) {
    return sums_[static_cast<size_t>(gpu * kNumSegments + static_cast<uint32_t>(segment)) * block_ +
                 static_cast<uint32_t>(counter)];
  }

  LoweredStep& step_;
  uint32_t world_;
  uint32_t block_;  // counters of a block
  uint32_t gpu_ = 0;
  Segment segment_ = Segment::kPrologue;
  uint32_t num_brief_ = 0;
  // [gpu][segment][counter of a block]. What the body waits for in the block before comes from the
  // prologue, in its first layer; what the epilogue does, from the body: the segment before.
  std::vector<Sum> sums_;
  std::vector<Instruction>* program_ = nullptr;  // the selected segment
  Sum* sums_here_ = nullptr;                     // its counters
};

}  // namespace terrazzo
