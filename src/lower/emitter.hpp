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

/// An instruction that is being written; lives until the next `emit`.
class Emitted {
 public:
  explicit Emitted(Instruction& instruction) : instruction_(instruction) {}
  Operands& args() const { return instruction_.args; }

 private:
  friend class Emitter;
  Instruction& instruction_;
  uint32_t num_waits_ = 0;
  uint32_t num_signals_ = 0;
};

/// Inline, as a step has some ten thousand instructions. They are to be emitted in an order in
/// which they could run: all that signal a counter, on every GPU, before those that wait for it.
/// Then each wait finds its target in the sums, and programs are written once.
class Emitter {
 public:
  /// Clears the programs; their storage is reused.
  Emitter(LoweredStep& step, uint32_t world);

  void select(uint32_t gpu, Segment segment);

  /// Appends an instruction to the selected segment.
  Emitted emit(Opcode opcode, uint8_t flags = 0) {
    num_brief_ += is_brief(opcode) ? 1 : 0;
    program_->push_back(kBlank);
    Instruction& instruction = program_->back();
    instruction.opcode = opcode;
    instruction.flags = flags;
    return Emitted(instruction);
  }

  /// For counters [first, first + count), negative ones of the block before. The target is the sum
  /// of their signals; throws `Error` where these differ, or are none.
  void wait(Emitted& emitted, int32_t first, uint32_t count = 1) {
    if (emitted.num_waits_ == kNumWaits) [[unlikely]] {
      fail_full(emitted.instruction_, "waits");
    }
    const uint32_t target = sums_here_[first].signalled;
    for (uint32_t i = 0; i < count; ++i) {
      Sum& sum = sums_here_[first + static_cast<int32_t>(i)];
      if (sum.signalled != target || target == 0) [[unlikely]] {
        fail_unequal(emitted.instruction_, target, sum.signalled);
      }
      if (sum.waited_for == 0) {  // sums only grow: the first wait's is the least
        sum.waited_for = target;
      }
    }
    emitted.instruction_.waits[emitted.num_waits_++] = {first, static_cast<uint16_t>(count), 0,
                                                        target};
  }

  /// Adds `increment` by each storer to one counter on every GPU of the mask.
  void signal(Emitted& emitted, int32_t counter, uint32_t increment, uint32_t gpus) {
    add(counter, kNumConsumers * increment, gpus);  // one storer each
    while (increment != 0) {
      if (emitted.num_signals_ == kNumSignals) [[unlikely]] {
        fail_full(emitted.instruction_, "signals of at most 255");
      }
      const uint32_t part = std::min(increment, kMaxIncrement);
      emitted.instruction_.signals[emitted.num_signals_++] = {
          counter, 1, static_cast<uint8_t>(part), static_cast<uint8_t>(gpus)};
      increment -= part;
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

  void add(int32_t counter, uint32_t value, uint32_t gpus) {
    if (gpus == own()) {
      sums_here_[counter].signalled += value;
      return;
    }
    for (uint32_t left = gpus; left != 0; left &= left - 1) {
      sum(static_cast<uint32_t>(std::countr_zero(left)), segment_, counter).signalled += value;
    }
  }

  [[noreturn]] static void fail_unequal(const Instruction& instruction, uint32_t expected,
                                        uint32_t seen);
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
