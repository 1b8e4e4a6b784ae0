// The ring of input slots: which slot an instruction uses next, and in which phase.
//
// Every role that touches the ring walks the same sequence of instructions with its own
// `RingCursor`; no message says which slot comes next.
#pragma once

#include <cstdint>

#include "terrazzo/core/geometry.hpp"

namespace terrazzo {

inline constexpr uint32_t kMaxPins = 6;

/// Wide GEMM tiles take 3 slots a k tile and start at a multiple of 3.
inline constexpr uint32_t kWideAlign = 3;

/// Slots of one instruction: `pins` are held to its end, `stream` are freed as they are consumed.
/// The first slot is a multiple of `align`, 1 or kWideAlign.
struct SlotPlan {
  uint32_t pins;
  uint32_t stream;
  uint32_t align;

  constexpr TERRAZZO_GROUP_FN uint32_t total() const { return pins + stream; }
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
    first_pin_ = slot_;
    num_pins_ = plan.pins;
  }

  /// The next pin. Pins come before the stream.
  constexpr TERRAZZO_GROUP_FN SlotUse pin() { return take(slot_); }

  /// The next slot of the stream: it passes over the slots pinned by this instruction, which must
  /// have been taken.
  constexpr TERRAZZO_GROUP_FN SlotUse next() {
    if (num_pins_ != 0 && slot_ == first_pin_) {
      slot_ = stream_begin();
    }
    return take(slot_);
  }

  /// What the `ahead`-th call of `next` from here on will give, `ahead` < kNumSlots - pins.
  constexpr TERRAZZO_GROUP_FN SlotUse peek(uint32_t ahead) const {
    const uint32_t slot = slot_at(place() + ahead);
    return {slot, (phases_ >> slot) & 1u};
  }

  /// As `count` calls of `next`, at most kNumSlots - pins.
  constexpr TERRAZZO_GROUP_FN void skip(uint32_t count) {
    const uint32_t size = kNumSlots - num_pins_;
    const uint32_t first = place();
    uint32_t places = ((1u << count) - 1) << first;  // of the stream's slots
    places = (places | places >> size) & ((1u << size) - 1);
    const uint32_t slots = places << stream_begin();
    phases_ ^= (slots | slots >> kNumSlots) & ((1u << kNumSlots) - 1);
    if (count != 0) {
      const uint32_t last = slot_at(first + count - 1);
      slot_ = last + 1 == kNumSlots ? 0 : last + 1;
    }
  }

  /// The same for any `count`, for an instruction without pins: with pins, whole rounds may leave
  /// the cursor before them or behind them.
  constexpr TERRAZZO_GROUP_FN void advance(uint32_t count) {
    if (count / kNumSlots % 2 != 0) {
      phases_ ^= (1u << kNumSlots) - 1;
    }
    skip(count % kNumSlots);
  }

  /// `kCount` calls of `next`, for an instruction without pins.
  template <uint32_t kCount>
  constexpr TERRAZZO_GROUP_FN void next_run(SlotUse (&uses)[kCount]) {
    TERRAZZO_UNROLL
    for (uint32_t i = 0; i < kCount; ++i) {
      const uint32_t slot = slot_ + i < kNumSlots ? slot_ + i : slot_ + i - kNumSlots;
      uses[i] = {slot, (phases_ >> slot) & 1u};
    }
    const uint32_t slots = ((1u << kCount) - 1) << slot_;
    phases_ ^= (slots | slots >> kNumSlots) & ((1u << kNumSlots) - 1);
    slot_ = slot_ + kCount < kNumSlots ? slot_ + kCount : slot_ + kCount - kNumSlots;
  }

  constexpr TERRAZZO_GROUP_FN uint32_t num_pins() const { return num_pins_; }
  constexpr TERRAZZO_GROUP_FN uint32_t pin_slot(uint32_t pin) const {
    return (first_pin_ + pin) % kNumSlots;
  }

  constexpr TERRAZZO_GROUP_FN uint32_t slot() const { return slot_; }
  constexpr TERRAZZO_GROUP_FN uint32_t phases() const { return phases_; }

 private:
  // The slots of the stream in turn, from the one behind the pins: places 0 .. kNumSlots - pins
  // - 1.
  constexpr TERRAZZO_GROUP_FN uint32_t stream_begin() const {
    const uint32_t slot = first_pin_ + num_pins_;
    return slot < kNumSlots ? slot : slot - kNumSlots;
  }
  constexpr TERRAZZO_GROUP_FN uint32_t place() const {
    const uint32_t begin = stream_begin();
    const uint32_t place = slot_ < begin ? slot_ + kNumSlots - begin : slot_ - begin;
    return place < kNumSlots - num_pins_ ? place : 0;  // the slot is a pin: the next one is not
  }
  constexpr TERRAZZO_GROUP_FN uint32_t slot_at(uint32_t place) const {
    const uint32_t size = kNumSlots - num_pins_;
    const uint32_t slot = stream_begin() + (place < size ? place : place - size);
    return slot < kNumSlots ? slot : slot - kNumSlots;
  }

  constexpr TERRAZZO_GROUP_FN SlotUse take(uint32_t slot) {
    const SlotUse use{slot, (phases_ >> slot) & 1u};
    phases_ ^= 1u << slot;
    slot_ = slot + 1 == kNumSlots ? 0 : slot + 1;
    return use;
  }

  uint32_t slot_ = 0;
  uint32_t phases_ = 0;
  uint32_t first_pin_ = 0;
  uint32_t num_pins_ = 0;
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
