// Shared memory of one SM.
#pragma once

#include <cstddef>
#include <cstdint>

#include "terrazzo/arch/sm90/fence.hpp"
#include "terrazzo/arch/sm90/mbarrier.hpp"
#include "terrazzo/core/geometry.hpp"
#include "terrazzo/core/isa.hpp"
#include "terrazzo/core/roles.hpp"

namespace terrazzo::sm90 {

inline constexpr uint32_t kWarpThreads = 32;
inline constexpr uint32_t kWarpsPerConsumer = 4;
inline constexpr uint32_t kInstructionRing = 2;  // one claimed ahead

inline constexpr uint32_t kOnesBytes = 8 * 16 * 2;

/// An instruction in the ring, resolved for its layer.
struct InstructionSlot {
  Instruction instruction;
  int32_t layer;
  uint32_t position;  // in the queue
  uint32_t end;       // no more instructions: roles return
  uint32_t reserved;
};

/// A wait that a role gave up; kind 0: none.
struct GivenUp {
  uint32_t kind;  // WaitKind
  uint32_t index;
  uint32_t seen;
  uint32_t wanted;
};

/// An mbarrier in shared memory; by address.
struct Barrier {
  uint64_t word;
};

/// 12 slots and 4 stages leave 3 KB: what else a consumer needs for an instruction lies in its free
/// stage.
struct SharedStorage {
  alignas(1024) std::byte slots[kNumSlots][kSlotBytes];
  alignas(1024) std::byte stages[kNumConsumers][kStagesPerConsumer][kStageBytes];
  alignas(16) float stage_vectors[kNumConsumers][kStagesPerConsumer][kStageVectorElems];
  alignas(16) float row_vectors[kNumConsumers][kHalfRows];          // RowVector of each consumer
  float maxima[kNumConsumers][kWarpsPerConsumer][kMaxDecodeHeads];  // of a decode page, by warp
  alignas(
      16) uint32_t ones[kOnesBytes / sizeof(uint32_t)];  // bf16 [8 columns][16]: sums by products
  alignas(16) InstructionSlot instructions[kInstructionRing];
  GivenUp given_up[kNumRoles];

  // As the host machine's; each arrival is one lane of each warp of the group.
  Barrier slot_full[kNumSlots];
  Barrier slot_empty[kNumSlots];
  Barrier stage_full[kNumConsumers][kStagesPerConsumer];
  Barrier stage_empty[kNumConsumers][kStagesPerConsumer];
  Barrier instruction_full[kInstructionRing];
  Barrier instruction_empty[kInstructionRing];
  Barrier claim;

  /// By one thread, before any role starts.
  __device__ void init() {
    const auto init_one = [](Barrier& barrier, uint32_t arrivals) {
      mbarrier_init(shared_address(&barrier), arrivals);
    };
    for (uint32_t i = 0; i < kNumSlots; ++i) {
      init_one(slot_full[i], 1);
      init_one(slot_empty[i], kNumConsumers * kWarpsPerConsumer);
    }
    for (uint32_t c = 0; c < kNumConsumers; ++c) {
      for (uint32_t i = 0; i < kStagesPerConsumer; ++i) {
        init_one(stage_full[c][i], kWarpsPerConsumer);
        init_one(stage_empty[c][i], 1);
      }
    }
    for (uint32_t i = 0; i < kInstructionRing; ++i) {
      init_one(instruction_full[i], 1);
      init_one(instruction_empty[i], 1 + kNumConsumers + kNumConsumers * kWarpsPerConsumer);
    }
    init_one(claim, 1);
    for (GivenUp& wait : given_up) {
      wait = {};
    }
    fence_mbarrier_init();
    for (uint32_t& pair : ones) {
      pair = 0x3f803f80u;
    }
    fence_proxy_async_shared();  // wgmma reads the ones
  }
};

inline constexpr uint32_t kMaxSharedBytes = 227 * 1024;  // a block's limit on sm_90
static_assert(sizeof(SharedStorage) <= kMaxSharedBytes);

}  // namespace terrazzo::sm90
