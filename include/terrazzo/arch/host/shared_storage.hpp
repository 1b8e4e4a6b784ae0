// Shared memory of one virtual SM.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "terrazzo/arch/host/barrier.hpp"
#include "terrazzo/core/geometry.hpp"
#include "terrazzo/core/isa.hpp"

namespace terrazzo::host {

inline constexpr uint32_t kInstructionRing = 4;  // instructions in flight on an SM

/// An instruction in the ring, resolved for its layer.
struct InstructionSlot {
  Instruction instruction;
  int32_t layer;
  uint32_t position;  // in the queue
  bool end;           // no more instructions: roles return
};

struct SharedStorage {
  alignas(1024) std::byte slots[kNumSlots][kSlotBytes];
  alignas(1024) std::byte stages[kNumConsumers][kStagesPerConsumer][kStageBytes];
  float stage_vectors[kNumConsumers][kStagesPerConsumer][kStageVectorElems];
  InstructionSlot instructions[kInstructionRing];

  Barrier slot_full[kNumSlots];   // loader's arrival and the bytes of its copies; consumers wait
  Barrier slot_empty[kNumSlots];  // one arrival a consumer; the loader waits
  Barrier stage_full[kNumConsumers][kStagesPerConsumer];   // the consumer arrives; its storer waits
  Barrier stage_empty[kNumConsumers][kStagesPerConsumer];  // the storer arrives; its consumer waits
  Barrier instruction_full[kInstructionRing];   // the controller arrives; five roles wait
  Barrier instruction_empty[kInstructionRing];  // five roles arrive; the controller waits
  Barrier claim;  // the loader arrives when nearly done; the controller waits

  void init() {
    for (uint32_t i = 0; i < kNumSlots; ++i) {
      slot_full[i].init(1);
      slot_empty[i].init(kNumConsumers);
    }
    for (uint32_t c = 0; c < kNumConsumers; ++c) {
      for (uint32_t i = 0; i < kStagesPerConsumer; ++i) {
        stage_full[c][i].init(1);
        stage_empty[c][i].init(1);
      }
    }
    for (uint32_t i = 0; i < kInstructionRing; ++i) {
      instruction_full[i].init(1);
      instruction_empty[i].init(1 + 2 * kNumConsumers);
    }
    claim.init(1);
  }
};

/// What the checked machine knows about an SM's shared memory.
struct SharedShadow {
  std::vector<uint8_t>
      slot_valid[kNumSlots];  // 1 for each 16-byte chunk that landed and was written
  bool stage_dirty[kNumConsumers][kStagesPerConsumer] =
      {};  // written, not yet fenced for the copy engine
  uint32_t stage_unread[kNumConsumers][kStagesPerConsumer] = {};  // stores that will still read it

  SharedShadow() {
    for (auto& valid : slot_valid) {
      valid.assign(kSlotBytes / kChunkBytes, 0);
    }
  }
};

}  // namespace terrazzo::host
