// The ring of input slots: which slot an instruction uses next, and in which phase.
//
// Every role that touches the ring walks the same sequence of instructions with its own
// `RingCursor`; no message says which slot comes next.
#pragma once

#include <cstdint>

#include "terrazzo/core/geometry.hpp"

namespace terrazzo {

/// Wide GEMM tiles take 3 slots a k tile and start at a multiple of 3.
inline constexpr uint32_t kWideAlign = 3;

/// Slots of one instruction. The first one is a multiple of `align`, 1 or kWideAlign.
struct SlotPlan {
  uint32_t count;
  uint32_t align;
};

/// One use of a slot. The loader waits for the empty barrier with parity `phase ^ 1`, consumers for
/// the full barrier with parity `phase`.
struct SlotUse {
  uint32_t slot;
  uint32_t phase;
};

/// A position in the ring and the phase of each slot; a value, equal in all roles at equal
/// progress.
class RingCursor {
 public:
  constexpr TERRAZZO_GROUP_FN void begin(const SlotPlan& plan) {
    if (plan.align == kWideAlign) {  // the only other one is 1: no division by a variable
      slot_ = round_up(slot_, kWideAlign) % kNumSlots;
    }
  }

  constexpr TERRAZZO_GROUP_FN SlotUse next() {
    const SlotUse use{slot_, (phases_ >> slot_) & 1u};
    phases_ ^= 1u << slot_;
    slot_ = slot_ + 1 == kNumSlots ? 0 : slot_ + 1;
    return use;
  }

  /// What the `ahead`-th call of `next` from here on will give, `ahead` < kNumSlots.
  constexpr TERRAZZO_GROUP_FN SlotUse peek(uint32_t ahead) const {
    const uint32_t slot = wrapped(slot_ + ahead);
    return {slot, (phases_ >> slot) & 1u};
  }

  /// As `count` calls of `next`, at most kNumSlots.
  constexpr TERRAZZO_GROUP_FN void skip(uint32_t count) {
    flip(count);
    slot_ = wrapped(slot_ + count);
  }

  /// The same for any `count`.
  constexpr TERRAZZO_GROUP_FN void advance(uint32_t count) {
    if (count / kNumSlots % 2 != 0) {
      flip(kNumSlots);
    }
    skip(count % kNumSlots);
  }

  /// `kCount` calls of `next`.
  template <uint32_t kCount>
  constexpr TERRAZZO_GROUP_FN void next_run(SlotUse (&uses)[kCount]) {
    TERRAZZO_UNROLL
    for (uint32_t i = 0; i < kCount; ++i) {
      uses[i] = peek(i);
    }
    skip(kCount);
  }

  constexpr TERRAZZO_GROUP_FN uint32_t slot() const { return slot_; }
  constexpr TERRAZZO_GROUP_FN uint32_t phases() const { return phases_; }

 private:
  static constexpr TERRAZZO_GROUP_FN uint32_t wrapped(uint32_t slot) {
    return slot < kNumSlots ? slot : slot - kNumSlots;
  }

  /// The phases of the next `count` slots.
  constexpr TERRAZZO_GROUP_FN void flip(uint32_t count) {
    const uint32_t slots = ((1u << count) - 1) << slot_;
    phases_ ^= (slots | slots >> kNumSlots) & ((1u << kNumSlots) - 1);
  }

  uint32_t slot_ = 0;
  uint32_t phases_ = 0;
};

/// Stage `index` of a consumer's output staging, taken in turn.
struct StageCursor {
  uint32_t index = 0;
  uint32_t phase = 0;

  constexpr TERRAZZO_GROUP_FN void advance() {
    index = (index + 1) % kStagesPerConsumer;
    phase ^= index == 0 ? 1u : 0u;
  }
};

}  // namespace terrazzo
