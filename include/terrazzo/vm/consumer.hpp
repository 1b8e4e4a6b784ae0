// A consumer's view of an instruction: slots in, stages out.
#pragma once

#include <cstdint>

#include "terrazzo/core/roles.hpp"
#include "terrazzo/vm/params.hpp"
#include "terrazzo/vm/ring.hpp"
#include "terrazzo/vm/slot_run.hpp"

namespace terrazzo {

/// What a consumer keeps from one instruction to the next.
struct ConsumerState {
  RingCursor ring;
  StageCursor stage;
  bool aborted = false;  // the launch is over
};

template <class M>
class Consumer {
 public:
  using Role = typename M::Role;
  using Slot = typename M::Slot;
  using Stage = typename M::Stage;

  TERRAZZO_GROUP_FN Consumer(Role& role, const StepParams& params, uint32_t index,
                             const ConsumerState& state)
      : params(params),
        role_(role),
        index_(index),
        cursor_(state.ring),
        stage_cursor_(state.stage) {}

  const StepParams& params;

  TERRAZZO_GROUP_FN const Instruction& instruction() const { return *instruction_; }
  TERRAZZO_GROUP_FN uint32_t layer() const { return static_cast<uint32_t>(layer_); }
  /// 0 or 1: which half of the tile is this consumer's.
  TERRAZZO_GROUP_FN uint32_t index() const { return index_; }

  /// The next slot of the stream, once it is full.
  TERRAZZO_GROUP_FN Slot use() { return use(cursor_.next()); }
  /// Whether the next slots are full: one look, which `use_run` may then be told of.
  template <uint32_t kCount>
  TERRAZZO_GROUP_FN bool look_at_run() {
    RingCursor ahead = cursor_;
    SlotUse uses[kCount];
    ahead.next_run(uses);
    bool full = true;
    TERRAZZO_UNROLL
    for (const SlotUse& use : uses) {
      full &= role_.is_complete(role_.shared().slot_full[use.slot], use.phase);
    }
    return full;
  }

  /// The next slots, once all of them are full.
  template <uint32_t kCount>
  TERRAZZO_GROUP_FN void use_run(Slot (&slots)[kCount], bool are_full = false) {
    SlotUse uses[kCount];
    cursor_.next_run(uses);
    use_all(slots, uses, are_full);
  }

  /// Gives slots back that follow each other in the ring.
  template <uint32_t kCount>
  TERRAZZO_GROUP_FN void release_run(const Slot (&slots)[kCount]) {
    M::arrive_at_run(role_, role_.shared().slot_empty, slots[0].index, kCount,
                     WaitKind::kSlotEmpty);
    if (role_.faults().double_arrival) {
      release(slots[0]);
    }
  }

  /// Gives a slot back; the loader waits for both consumers.
  TERRAZZO_GROUP_FN void release(Slot slot) {
    role_.arrive(role_.shared().slot_empty[slot.index], WaitKind::kSlotEmpty, slot.index);
    if (role_.faults().double_arrival) {
      role_.arrive(role_.shared().slot_empty[slot.index], WaitKind::kSlotEmpty, slot.index);
    }
  }

  /// Passes over a slot that the other consumer reads: it must be full before it may be given back.
  TERRAZZO_GROUP_FN void pass() { release(use()); }

  /// The same for all slots that are left of the instruction.
  TERRAZZO_GROUP_FN void pass_rest() {
    while (left_ > 0) {
      pass();
    }
  }

  /// Room for one value a row, until the next call.
  TERRAZZO_GROUP_FN auto row_vector() { return M::row_vector(role_, index_); }

  /// Where attention holds its queries.
  template <uint32_t kPanels>
  TERRAZZO_GROUP_FN auto prefill_queries() {
    return M::template prefill_queries<kPanels>(role_);
  }
  template <uint32_t kPanels, uint32_t kGroups>
  TERRAZZO_GROUP_FN auto decode_queries() {
    return M::template decode_queries<kPanels, kGroups>(role_, index_, stage());
  }

  /// A value that was written in this step, after `use` of a slot that its loader filled after the
  /// wait for it.
  template <class T>
  TERRAZZO_GROUP_FN T read(const T* address) {
    M::check_read(role_, address);
    return *address;
  }

  /// The next output stage, free to be written.
  TERRAZZO_GROUP_FN Stage stage() {
    auto& empty = role_.shared().stage_empty[index_][stage_cursor_.index];
    role_.wait(empty, stage_cursor_.phase ^ 1u, WaitKind::kStageEmpty, stage_cursor_.index);
    return M::begin_stage(role_, index_, stage_cursor_.index);
  }

  /// Hands a written stage to this consumer's storer.
  TERRAZZO_GROUP_FN void publish(Stage stage) {
    M::fence_stage(role_, index_, stage.index);
    role_.arrive(role_.shared().stage_full[index_][stage.index], WaitKind::kStageFull, stage.index);
    stage_cursor_.advance();
  }

  // --- for the interpreter ---

  TERRAZZO_GROUP_FN void begin(const Instruction& instruction, int32_t layer,
                               const SlotPlan& plan) {
    instruction_ = &instruction;
    layer_ = layer;
    left_ = plan.count;
    cursor_.begin(plan);
  }
  TERRAZZO_GROUP_FN uint32_t slots_left() const { return left_; }
  TERRAZZO_GROUP_FN ConsumerState state() const {
    return {cursor_, stage_cursor_, role_.aborted()};
  }

 private:
  template <uint32_t kCount>
  TERRAZZO_GROUP_FN void use_all(Slot (&slots)[kCount], const SlotUse (&uses)[kCount],
                                 bool are_full = false) {
    if (!are_full && !role_.faults().no_full_wait) {
      wait_for_run(role_, role_.shared().slot_full, uses, 0, WaitKind::kSlotFull);
    }
    left_ -= kCount;
    TERRAZZO_UNROLL
    for (uint32_t i = 0; i < kCount; ++i) {
      slots[i] = M::slot(role_, uses[i].slot);
    }
  }

  TERRAZZO_GROUP_FN Slot use(SlotUse use) {
    if (!role_.faults().no_full_wait) {
      role_.wait(role_.shared().slot_full[use.slot], use.phase, WaitKind::kSlotFull, use.slot);
    }
    --left_;
    return M::slot(role_, use.slot);
  }

  Role& role_;
  uint32_t index_;
  const Instruction* instruction_ = nullptr;
  int32_t layer_ = 0;
  uint32_t left_ = 0;
  RingCursor cursor_;
  StageCursor stage_cursor_;
};

}  // namespace terrazzo
