// The loader's view of an instruction: waits, then copies into the ring.
#pragma once

#include <cstddef>
#include <cstdint>

#include "terrazzo/core/roles.hpp"
#include "terrazzo/vm/params.hpp"
#include "terrazzo/vm/ring.hpp"
#include "terrazzo/vm/slot_run.hpp"

namespace terrazzo {

/// The loader is done early with an instruction when at most this many slots are left to issue;
/// then the controller claims the next one.
inline constexpr uint32_t kClaimAheadSlots = 6;

/// A part of a slot, and where it comes from.
struct SlotPiece {
  uint32_t offset;
  const std::byte* source;
  uint32_t bytes;
};

/// Slots filled by one lane; see `Loader::by_one_lane`.
template <class M>
class SlotStream {
 public:
  using Role = typename M::Role;

  TERRAZZO_GROUP_FN SlotStream(Role& role, const RingCursor& cursor, uint32_t left, bool claimed)
      : role_(role), cursor_(cursor), left_(left), claimed_(claimed) {}

  /// The next `kCount` slots, once all of them are empty; exactly `bytes[i]` bytes must be copied
  /// into slot i.
  template <uint32_t kCount>
  TERRAZZO_GROUP_FN void fill(typename M::Slot (&slots)[kCount], const uint32_t (&bytes)[kCount]) {
    SlotUse uses[kCount];
    take_empty(uses);
    TERRAZZO_UNROLL
    for (uint32_t i = 0; i < kCount; ++i) {
      expect(uses[i], bytes[i]);
      slots[i] = M::slot(role_, uses[i].slot);
    }
  }

  /// The same, a copy a slot.
  template <uint32_t kCount>
  TERRAZZO_GROUP_FN void fill(const std::byte* const (&sources)[kCount],
                              const uint32_t (&bytes)[kCount]) {
    typename M::Slot slots[kCount];
    fill(slots, bytes);
    TERRAZZO_UNROLL
    for (uint32_t i = 0; i < kCount; ++i) {
      copy(slots[i], 0, sources[i], bytes[i]);
    }
  }

  /// The same with `kPieces` pieces of `piece_bytes` a slot, one after the other, the k-th of all
  /// from `first + k * stride`.
  template <uint32_t kCount, uint32_t kPieces>
  TERRAZZO_GROUP_FN void fill_strided(const std::byte* first, uint64_t stride,
                                      uint32_t piece_bytes) {
    typename M::Slot slots[kCount];
    uint32_t bytes[kCount];
    TERRAZZO_UNROLL
    for (uint32_t& each : bytes) {
      each = kPieces * piece_bytes;
    }
    fill(slots, bytes);
    TERRAZZO_UNROLL
    for (uint32_t i = 0; i < kCount * kPieces; ++i, first += stride) {
      copy(slots[i / kPieces], i % kPieces * piece_bytes, first, piece_bytes);
    }
  }

  /// The next slot, empty; exactly `bytes` bytes must be copied into it.
  TERRAZZO_GROUP_FN typename M::Slot fill(uint32_t bytes) {
    typename M::Slot slot[1];
    fill(slot, {bytes});
    return slot[0];
  }

  TERRAZZO_GROUP_FN void copy(typename M::Slot slot, uint32_t slot_offset, const std::byte* source,
                              uint32_t bytes) {
    role_.load_async(slot.data + slot_offset, source, bytes, role_.shared().slot_full[slot.index],
                     slot.index, slot_offset);
  }

 private:
  template <uint32_t kCount>
  TERRAZZO_GROUP_FN void take_empty(SlotUse (&uses)[kCount]) {
    cursor_.next_run(uses);
    wait_for_run(role_, role_.shared().slot_empty, uses, 1, WaitKind::kSlotEmpty);
    left_ -= kCount;
    if (!claimed_ && left_ <= kClaimAheadSlots) {
      claimed_ = true;
      role_.arrive_from_lane(role_.shared().claim, WaitKind::kClaim, 0);  // the controller waits
    }
  }

  TERRAZZO_GROUP_FN void expect(const SlotUse& use, uint32_t bytes) {
    M::begin_fill(role_, use.slot);
    role_.arrive_expecting_from_lane(role_.shared().slot_full[use.slot], bytes, WaitKind::kSlotFull,
                                     use.slot);
  }

  Role& role_;
  RingCursor cursor_;
  uint32_t left_;
  bool claimed_;
};

template <class M>
class Loader {
 public:
  using Role = typename M::Role;
  using Slot = typename M::Slot;

  TERRAZZO_GROUP_FN Loader(Role& role, const StepParams& params) : params(params), role_(role) {}

  const StepParams& params;

  TERRAZZO_GROUP_FN const Instruction& instruction() const { return *instruction_; }
  TERRAZZO_GROUP_FN uint32_t layer() const { return static_cast<uint32_t>(layer_); }

  /// Executes wait `index` of the instruction: afterwards this role's copies see what was
  /// signalled.
  TERRAZZO_GROUP_FN void wait(uint32_t index) {
    const Wait& wait = instruction_->waits[index];
    if (wait.count == 0) {
      return;
    }
    const uint32_t first = counter_of(wait);
    role_.acquire(params.counters(params.gpu) + first, wait.count, wait.target, WaitKind::kCounter,
                  first);
    role_.fence_acquired();
  }

  TERRAZZO_GROUP_FN void wait_all() {
    uint32_t counters = 0;
    for (const Wait& wait : instruction_->waits) {
      counters += wait.count;
    }
    if (counters == 0) {
      return;
    }
    for (uint32_t i = 0; i < kNumWaits; ++i) {
      wait(i);
    }
  }

  /// The same within `by_one_lane`, for the copies of that lane.
  TERRAZZO_GROUP_FN void wait_all_from_lane() {
    for (uint32_t i = 0; i < kNumWaits; ++i) {
      const Wait& wait = instruction_->waits[i];
      if (wait.count != 0) {
        const uint32_t first = counter_of(wait);
        role_.acquire_from_lane(params.counters(params.gpu) + first, wait.count, wait.target,
                                WaitKind::kCounter, first);
      }
    }
    role_.fence_acquired();
  }

  /// After `by_one_lane`: what its lane acquired is visible to the copies of all lanes.
  TERRAZZO_GROUP_FN void share_acquired() {
    M::converge(role_);
    role_.fence_acquired();
  }

  /// The next slot of the stream, empty; exactly `bytes` bytes must be copied into it.
  TERRAZZO_GROUP_FN Slot fill(uint32_t bytes) { return fill(cursor_.next(), bytes); }

  /// The next `slots` slots of the stream at once, at most kNumSlots. Slot i takes
  /// `bytes_of(i)` bytes, in `copies` copies at most: `piece_of(i, c)` is the c-th. The functions
  /// are called by the lanes that issue: at most 32 copies.
  template <class BytesOf, class PieceOf>
  TERRAZZO_GROUP_FN void fill_run(uint32_t slots, uint32_t copies, BytesOf bytes_of,
                                  PieceOf piece_of) {
    auto& shared = role_.shared();
    const auto slot_of = [&](uint32_t lane)
                             TERRAZZO_LAMBDA { return copies == 1 ? lane : lane / copies; };
    M::in_two_phases(
        role_, slots * copies,
        [&](uint32_t lane) TERRAZZO_LAMBDA {
          const uint32_t i = slot_of(lane);
          const SlotPiece piece = piece_of(i, lane - i * copies);  // may look something up
          if (lane == i * copies) {
            const SlotUse use = cursor_.peek(i);
            role_.wait(shared.slot_empty[use.slot], use.phase ^ 1u, WaitKind::kSlotEmpty, use.slot);
            M::begin_fill(role_, use.slot);
            role_.arrive_expecting_from_lane(shared.slot_full[use.slot], bytes_of(i),
                                             WaitKind::kSlotFull, use.slot);
          }
          return piece;
        },
        [&](uint32_t lane, const SlotPiece& piece) TERRAZZO_LAMBDA {
          if (piece.bytes != 0) {
            copy_from_lane(M::slot(role_, cursor_.peek(slot_of(lane)).slot), piece.offset,
                           piece.source, piece.bytes);
          }
        });
    cursor_.skip(slots);
    left_ -= slots;
    claim_when_due();
  }

  TERRAZZO_GROUP_FN void copy(Slot slot, uint32_t slot_offset, const std::byte* source,
                              uint32_t bytes) {
    if (M::is_elected(role_)) {
      copy_from_lane(slot, slot_offset, source, bytes);
    }
  }

  /// Calls f(i) for i < count, spread over the lanes of the warp.
  template <class F>
  TERRAZZO_GROUP_FN void for_each_lane(uint32_t count, F f) {
    M::for_each_lane(role_, count, f);
  }

  /// As `copy`, within `for_each_lane`: each lane issues its own.
  TERRAZZO_GROUP_FN void copy_from_lane(Slot slot, uint32_t slot_offset, const std::byte* source,
                                        uint32_t bytes) {
    role_.load_async(slot.data + slot_offset, source, bytes, role_.shared().slot_full[slot.index],
                     slot.index, slot_offset);
  }

  /// The next `slots` slots, in as few instructions a slot as there can
  /// be: `body(stream)` fills exactly so many of a SlotStream, in one lane.
  template <class Body>
  TERRAZZO_GROUP_FN void by_one_lane(uint32_t slots, Body body) {
    if (M::is_elected(role_)) {
      SlotStream<M> stream(role_, cursor_, left_, claimed_);
      body(stream);
    }
    M::converge(role_);
    cursor_.advance(slots);
    left_ -= slots;
    claimed_ = claimed_ || left_ <= kClaimAheadSlots;
  }

  /// Within `by_one_lane`: whether wait `index` would block; tells nothing about memory.
  TERRAZZO_GROUP_FN bool would_block_from_lane(uint32_t index) {
    const Wait& wait = instruction_->waits[index];
    return wait.count != 0 &&
           !role_.reached_from_lane(params.counters(params.gpu) + counter_of(wait), wait.count,
                                    wait.target);
  }

  /// `rows` 128-byte rows, each from `source_of(row)`; those that follow each other travel
  /// together.
  template <class SourceOf>
  TERRAZZO_GROUP_FN void gather_rows(Slot slot, uint32_t rows, SourceOf source_of) {
    M::for_each_run(role_, rows, kRowBytes, source_of,
                    [&](uint32_t row, uint32_t length, const std::byte* source) TERRAZZO_LAMBDA {
                      copy_from_lane(slot, row * kRowBytes, source, length * kRowBytes);
                    });
  }

  // --- for the interpreter ---

  TERRAZZO_GROUP_FN void begin(const Instruction& instruction, int32_t layer,
                               const SlotPlan& plan) {
    instruction_ = &instruction;
    layer_ = layer;
    left_ = plan.count;
    claimed_ = (instruction.flags & kBriefRun) != 0;  // the controller does not wait
    cursor_.begin(plan);
    claim_when_due();
  }
  TERRAZZO_GROUP_FN uint32_t slots_left() const { return left_; }

 private:
  TERRAZZO_GROUP_FN uint32_t counter_of(const Wait& wait) const {
    return BankLayout::kBlocks +
           counter_index(params.program.counters_per_block, layer_, wait.first);
  }

  TERRAZZO_GROUP_FN Slot fill(SlotUse use, uint32_t bytes) {
    auto& shared = role_.shared();
    role_.wait(shared.slot_empty[use.slot], use.phase ^ 1u, WaitKind::kSlotEmpty, use.slot);
    M::begin_fill(role_, use.slot);
    role_.arrive_expecting(shared.slot_full[use.slot], bytes, WaitKind::kSlotFull, use.slot);
    --left_;
    claim_when_due();
    return M::slot(role_, use.slot);
  }

  /// Lets the controller claim the next instruction, once an instruction.
  TERRAZZO_GROUP_FN void claim_when_due() {
    if (!claimed_ && left_ <= kClaimAheadSlots) {
      claimed_ = true;
      role_.arrive(role_.shared().claim, WaitKind::kClaim, 0);  // the controller waits
    }
  }

  Role& role_;
  const Instruction* instruction_ = nullptr;
  int32_t layer_ = 0;
  uint32_t left_ = 0;
  bool claimed_ = false;
  RingCursor cursor_;
};

}  // namespace terrazzo
