// The role loops: every SM of a GPU runs these until the step's queue is empty.
#pragma once

#include <cstdint>

#include "terrazzo/vm/consumer.hpp"
#include "terrazzo/vm/loader.hpp"
#include "terrazzo/vm/storer.hpp"
#include "terrazzo/vm/trace.hpp"

namespace terrazzo {

/// Position in the instruction ring; a value, equal in all roles at equal progress.
template <uint32_t kDepth>
struct InstructionCursor {
  uint32_t index = 0;
  uint32_t phase = 0;

  TERRAZZO_GROUP_FN void advance() {
    index = index + 1 == kDepth ? 0 : index + 1;
    phase ^= index == 0 ? 1u : 0u;
  }
};

/// Positions that an SM claims at once in a run of brief instructions.
inline constexpr uint32_t kBriefClaims = 4;

/// Claims instructions late and puts them into the instruction ring.
///
/// Late: once the loader is nearly done with the one before. In a run of brief instructions, where
/// a claim takes as long as the work, the loader says nothing: some positions are claimed at once,
/// and the next ones while the first of these is fetched.
template <class M>
TERRAZZO_GROUP_FN void run_controller(typename M::Role& role, const StepParams& params) {
  auto& shared = role.shared();
  InstructionCursor<M::kInstructionRing> cursor;
  uint32_t* const bank = params.counters(params.gpu);
  uint32_t* const head = bank + BankLayout::kQueueHead;
  const uint32_t queue_size = params.program.queue_size();
  QueueWalk walk(params.program);
  uint32_t claim_phase = 0;
  bool in_brief_run = false;
  uint32_t position = 0;
  uint32_t num_claimed = 0;  // positions from `position` on
  uint32_t num_claiming = 1;
  auto claim = role.claim_async(head, num_claiming);
  for (bool end = false; !end;) {
    if (num_claimed == 0) {
      position = role.claimed(claim);
      num_claimed = num_claiming;
      num_claiming = 0;
    }
    end = position >= queue_size;
    typename M::FetchedInstruction fetched{};
    QueuePlace place{};
    if (!end) {
      if (in_brief_run && num_claiming == 0) {
        num_claiming = kBriefClaims;
        claim = role.claim_async(head, num_claiming);
      }
      const QueueEntry entry = walk.at(position);
      fetched = M::fetch_instruction(role, entry.instruction);
      const InstructionHead first_word = M::head_of(role, fetched);
      place = entry.place(params.program, first_word.layer_offset);
      in_brief_run = (first_word.flags & kBriefRun) != 0;
    } else {
      // No GPU may start the next step before every GPU has ended this one.
      role.acquire(bank + BankLayout::kEnd, 1, params.shape.world, WaitKind::kEnd,
                   BankLayout::kEnd);
    }
    if (!place.skip) {
      role.wait(shared.instruction_empty[cursor.index], cursor.phase ^ 1u,
                WaitKind::kInstructionFree, cursor.index);
      if (role.is_over()) {
        role.report_given_up();
        return;  // the place may still be in use
      }
      if (!end) {
        role.note_claim(position);
      }
      M::write_instruction(role, shared.instructions[cursor.index], fetched, place.layer, position,
                           end);
      role.arrive(shared.instruction_full[cursor.index], WaitKind::kInstruction, cursor.index);
      cursor.advance();
      if (!end && !in_brief_run) {
        role.wait(shared.claim, claim_phase, WaitKind::kClaim, 0);
        claim_phase ^= 1u;
      }
    }
    ++position;
    if (--num_claimed == 0 && num_claiming == 0 && !end) {
      num_claiming = 1;
      claim = role.claim_async(head, num_claiming);
    }
  }
}

/// Takes instructions out of the ring and calls `run(slot)` for each.
template <class M, class Run>
TERRAZZO_GROUP_FN void for_each_instruction(typename M::Role& role, const StepParams& params,
                                            Run run) {
  auto& shared = role.shared();
  InstructionCursor<M::kInstructionRing> cursor;
  while (true) {
    role.wait(shared.instruction_full[cursor.index], cursor.phase, WaitKind::kInstruction,
              cursor.index);
    if (role.is_over()) {
      role.report_given_up();
      return;  // what lies in the ring is not an instruction that all roles have
    }
    const auto& slot = shared.instructions[cursor.index];
    if (slot.end) {
      return;
    }
    role.set_current(&slot);
    {
      const TraceScope<M> scope(role, params, slot);
      run(slot);
    }
    role.report_given_up();
    role.set_current(nullptr);
    role.arrive(shared.instruction_empty[cursor.index], WaitKind::kInstructionFree, cursor.index);
    cursor.advance();
  }
}

/// Set::dispatch(opcode, f) calls f with the operation's type; Set::dispatch_storer with the type
/// that stores.
template <class M, class Set>
TERRAZZO_GROUP_FN void run_loader(typename M::Role& role, const StepParams& params) {
  Loader<M> loader(role, params);
  for_each_instruction<M>(role, params, [&](const auto& slot) TERRAZZO_LAMBDA {
    Set::dispatch(slot.instruction.opcode, [&](auto operation) TERRAZZO_LAMBDA {
      loader.begin(slot.instruction, slot.layer, operation.slots(slot.instruction, params));
      operation.load(loader);
      M::expect_done(role, loader.slots_left());
    });
  });
}

/// One instruction of one consumer.
template <class M, class Operation, class InstructionSlot>
TERRAZZO_GROUP_FN ConsumerState consume_one(typename M::Role& role, const StepParams& params,
                                            uint32_t index, const InstructionSlot& slot,
                                            const ConsumerState& state) {
  Consumer<M> consumer(role, params, index, state);
  consumer.begin(slot.instruction, slot.layer, Operation::slots(slot.instruction, params));
  Operation::consume(consumer);
  M::expect_done(role, consumer.slots_left());
  return consumer.state();
}

/// The same as a function of its own; `M::RoleHandle` is how a role goes there. Not for operations
/// with products: a compiler runs these one by one in a function that is not the kernel.
template <class M, class Operation, class InstructionSlot>
TERRAZZO_OUTLINED_FN ConsumerState consume_outlined(typename M::RoleHandle handle,
                                                    const StepParams& params, uint32_t index,
                                                    const InstructionSlot& slot,
                                                    ConsumerState state) {
  return consume_one<M, Operation>(handle, params, index, slot, state);
}

template <class M, class Set>
TERRAZZO_GROUP_FN void run_consumer(typename M::Role& role, const StepParams& params,
                                    uint32_t index) {
  ConsumerState state;
  for_each_instruction<M>(role, params, [&](const auto& slot) TERRAZZO_LAMBDA {
    Set::dispatch(slot.instruction.opcode, [&](auto operation) TERRAZZO_LAMBDA {
      using Operation = decltype(operation);
      if constexpr (Operation::kHasProducts) {
        state = consume_one<M, Operation>(role, params, index, slot, state);
      } else {
        state = consume_outlined<M, Operation>(role, params, index, slot, state);
        role.set_aborted(state.aborted);
      }
    });
  });
}

template <class M, class Set>
TERRAZZO_GROUP_FN void run_storer(typename M::Role& role, const StepParams& params,
                                  uint32_t index) {
  Storer<M> storer(role, params, index);
  for_each_instruction<M>(role, params, [&](const auto& slot) TERRAZZO_LAMBDA {
    Set::dispatch_storer(slot.instruction.opcode, [&](auto operation) TERRAZZO_LAMBDA {
      storer.begin(slot.instruction, slot.layer);
      operation.store(storer);
      storer.finish();
    });
  });
}

}  // namespace terrazzo
