// The host machine as `instructions/` and `vm/` see it: the types and operations of one virtual SM.
#pragma once

#include <cstddef>
#include <cstdint>

#include "terrazzo/arch/host/role.hpp"
#include "terrazzo/arch/host/slot.hpp"
#include "terrazzo/core/program.hpp"

namespace terrazzo::host {

struct Machine {
  using Role = host::Role;
  using RoleHandle = host::Role&;
  using Slot = host::Slot;
  using Stage = host::Stage;

  static constexpr uint32_t kInstructionRing = host::kInstructionRing;
  static constexpr int kPoisonByte = 0xff;  // as bf16 and fp32: NaN

  static Slot slot(Role& role, uint32_t index) {
    return {role.shared().slots[index], index, &role};
  }

  /// The slot is empty and about to be filled: what it held is gone.
  static void begin_fill(Role& role, uint32_t index) {
    if (role.checked()) {
      role.shadow()->slot_valid[index].assign(kSlotBytes / kShadowBytes, 0);
      std::memset(role.shared().slots[index], kPoisonByte, kSlotBytes);
    }
  }

  static Stage stage(Role& role, uint32_t consumer, uint32_t index) {
    return {role.shared().stages[consumer][index], role.shared().stage_vectors[consumer][index],
            index};
  }

  /// The stage is free and about to be written.
  static Stage begin_stage(Role& role, uint32_t consumer, uint32_t index) {
    const Stage out = stage(role, consumer, index);
    if (role.checked()) {
      if (role.shadow()->stage_unread[consumer][index] != 0) {
        fail("protocol", role.describe(), " writes stage ", index,
             " before all stores have read what it held");
      }
      role.shadow()->stage_dirty[consumer][index] = true;
      std::memset(out.tile, kPoisonByte, kStageBytes);
      std::memset(out.vector, kPoisonByte, kStageVectorElems * sizeof(float));
    }
    return out;
  }

  /// Makes the stage's ordinary writes visible to the copy engine.
  static void fence_stage(Role& role, uint32_t consumer, uint32_t index) {
    if (role.checked() && !role.faults().no_proxy_fence) {
      role.shadow()->stage_dirty[consumer][index] = false;
    }
  }

  static const std::byte* vector_bytes(const Stage& stage, uint32_t first) {
    return reinterpret_cast<const std::byte*>(stage.vector + first);
  }

  static void store(Role& role, uint32_t consumer, const Stage& stage, std::byte* target,
                    const std::byte* source, uint32_t bytes) {
    role.store_async(target, source, bytes, consumer, stage.index);
  }

  /// Whether this lane acts for its group.
  static bool is_elected(const Role&) { return true; }

  static void converge(const Role&) {}

  /// Calls f(i) for i < count, spread over the lanes of the group.
  template <class F>
  static void for_each_lane(const Role&, uint32_t count, F f) {
    for (uint32_t i = 0; i < count; ++i) {
      f(i);
    }
  }

  /// Calls second(i, first(i)) for i < count <= 32, spread over the lanes of the group; each lane's
  /// second call comes after all first ones of the lanes before it.
  template <class First, class Second>
  static void in_two_phases(const Role&, uint32_t count, First first, Second second) {
    for (uint32_t i = 0; i < count; ++i) {
      second(i, first(i));
    }
  }

  /// Calls f(first, length, target) for runs among `count` pieces of `bytes` bytes whose targets
  /// follow each other; here each piece is a run.
  template <class TargetOf, class F>
  static void for_each_run(const Role&, uint32_t count, uint32_t, TargetOf target_of, F f) {
    for (uint32_t i = 0; i < count; ++i) {
      f(i, 1, target_of(i));
    }
  }
  /// The same, with `targets_known(i)` before: the targets from the i-th on can be looked up.
  template <class TargetOf, class F, class TargetsKnown>
  static void for_each_run(const Role& role, uint32_t count, uint32_t bytes, TargetOf target_of,
                           F f, TargetsKnown targets_known) {
    targets_known(0);
    for_each_run(role, count, bytes, target_of, f);
  }

  template <class Barriers>
  static void arrive_at_run(Role& role, Barriers& barriers, uint32_t first, uint32_t count,
                            WaitKind kind) {
    for (uint32_t i = first; i < first + count; ++i) {
      role.arrive(barriers[i % kNumSlots], kind, i % kNumSlots);
    }
  }

  /// An ordinary read of memory that instructions write.
  static void check_read(const Role& role, const void* address) { role.check_read(address); }

  /// An instruction on its way to the instruction ring.
  using FetchedInstruction = const Instruction*;

  static FetchedInstruction fetch_instruction(const Role&, const Instruction* instruction) {
    return instruction;
  }
  static InstructionHead head_of(const Role&, FetchedInstruction fetched) {
    return {fetched->opcode, fetched->flags, fetched->layer_offset};
  }

  /// The controller puts an instruction, or the end of the queue, into the ring.
  static void write_instruction(Role&, InstructionSlot& slot, FetchedInstruction fetched,
                                int32_t layer, uint32_t position, bool end) {
    slot.end = end;
    slot.position = position;
    slot.layer = layer;
    if (!end) {
      slot.instruction = *fetched;
    }
  }

  /// An operation must use exactly the slots that it planned.
  static void expect_done(const Role& role, uint32_t slots_left) {
    if (slots_left != 0) {
      fail("protocol", role.describe(), " ends with ", static_cast<int>(slots_left),
           " of its slots unused");
    }
  }

  static uint64_t now_ns() { return host::now_ns(); }
};

}  // namespace terrazzo::host
