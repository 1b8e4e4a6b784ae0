// The Hopper machine as `instructions/` and `vm/` see it: the types and operations of one SM.
#pragma once

#include <cstddef>
#include <cstdint>

#include "terrazzo/arch/sm90/role.hpp"
#include "terrazzo/core/program.hpp"

namespace terrazzo::sm90 {

/// An input slot, by shared-memory address.
struct Slot {
  uint32_t data;
  uint32_t index;
};

/// An output stage: a tile of 64 rows of 128 bytes and a small vector beside it.
struct Stage {
  uint32_t tile;     // address
  float* vector;     // [64]
  uint32_t barrier;  // named barrier of the consumer that owns it
  uint32_t index;
};

/// Named barrier of a consumer's warpgroup (0 is __syncthreads).
__device__ __forceinline__ uint32_t consumer_barrier(uint32_t consumer) { return 1 + consumer; }
inline constexpr uint32_t kConsumerThreads = kWarpsPerConsumer * kWarpThreads;

struct Machine {
  using Role = sm90::Role;
  using RoleHandle = sm90::Role;  // a copy, so that its members stay in registers
  using Slot = sm90::Slot;
  using Stage = sm90::Stage;

  static constexpr uint32_t kInstructionRing = sm90::kInstructionRing;

  static __device__ __forceinline__ Slot slot(Role& role, uint32_t index) {
    return {shared_address(role.shared().slots) + index * kSlotBytes, index};
  }

  static __device__ __forceinline__ void begin_fill(Role&, uint32_t) {}

  static __device__ __forceinline__ Stage stage(Role& role, uint32_t consumer, uint32_t index) {
    const uint32_t place = consumer * kStagesPerConsumer + index;
    return {shared_address(role.shared().stages) + place * kStageBytes,
            role.shared().stage_vectors[consumer][index], consumer_barrier(consumer), index};
  }

  static __device__ __forceinline__ Stage begin_stage(Role& role, uint32_t consumer,
                                                      uint32_t index) {
    return stage(role, consumer, index);
  }

  static __device__ __forceinline__ void fence_stage(Role&, uint32_t, uint32_t) {
    fence_proxy_async_shared();
  }

  static __device__ __forceinline__ uint32_t vector_bytes(const Stage& stage, uint32_t first) {
    return shared_address(stage.vector + first);
  }

  static __device__ __forceinline__ void store(Role& role, uint32_t, const Stage&,
                                               std::byte* target, uint32_t source, uint32_t bytes) {
    role.store_async(target, source, bytes);
  }

  static __device__ __forceinline__ bool is_elected(const Role&) { return elect_one(); }

  template <class F>
  static __device__ __forceinline__ void for_each_lane(const Role& role, uint32_t count, F f) {
    for (uint32_t i = role.lane(); i < count; i += kWarpThreads) {
      f(i);
    }
  }

  static __device__ __forceinline__ void converge(Role& role) { role.converge(); }

  template <class First, class Second>
  static __device__ __forceinline__ void in_two_phases(Role& role, uint32_t count, First first,
                                                       Second second) {
    const uint32_t lane = role.lane();
    decltype(first(lane)) value{};
    if (lane < count) {
      value = first(lane);
    }
    role.converge();
    if (lane < count) {
      second(lane, value);
    }
  }

  /// Calls f(first, length, target) for each longest run, within 32 pieces of `bytes` bytes, whose
  /// targets follow each other; by the lane of its first piece. Before that, by all lanes,
  /// `targets_known(i)`: the targets from the i-th on have been looked up.
  template <class TargetOf, class F, class TargetsKnown>
  static __device__ __forceinline__ void for_each_run(const Role& role, uint32_t count,
                                                      uint32_t bytes, TargetOf target_of, F f,
                                                      TargetsKnown targets_known) {
    for (uint32_t base = 0; base < count; base += kWarpThreads) {
      const uint32_t i = base + role.lane();
      const bool exists = i < count;
      std::byte* const target = exists ? target_of(i) : nullptr;
      targets_known(base);
      const auto address = reinterpret_cast<uint64_t>(target);
      const uint64_t before = __shfl_up_sync(~0u, address, 1);
      const bool first = exists && (role.lane() == 0 || address != before + bytes);
      const uint32_t ends = __ballot_sync(~0u, first || !exists);
      if (first) {
        const uint32_t later = role.lane() + 1 == kWarpThreads ? 0 : ends >> (role.lane() + 1);
        const uint32_t length =
            later != 0 ? __ffs(static_cast<int>(later)) : kWarpThreads - role.lane();
        f(i, length, target);
      }
    }
  }

  template <class TargetOf, class F>
  static __device__ __forceinline__ void for_each_run(const Role& role, uint32_t count,
                                                      uint32_t bytes, TargetOf target_of, F f) {
    for_each_run(role, count, bytes, target_of, f, [](uint32_t) TERRAZZO_LAMBDA {});
  }

  /// `arrive` at `count` barriers of the ring from `first` on, side by side.
  static __device__ __forceinline__ void arrive_at_run(Role& role, Barrier (&barriers)[kNumSlots],
                                                       uint32_t first, uint32_t count,
                                                       WaitKind kind) {
    __syncwarp();
    if (role.lane() < count) {
      const uint32_t slot = first + role.lane();
      role.arrive_from_lane(barriers[slot < kNumSlots ? slot : slot - kNumSlots], kind, slot);
    }
  }

  static __device__ __forceinline__ void check_read(const Role&, const void*) {}

  /// An instruction on its way to shared memory: a word a lane.
  using FetchedInstruction = uint32_t;
  static_assert(sizeof(Instruction) == kWarpThreads * sizeof(uint32_t));

  static __device__ __forceinline__ FetchedInstruction
  fetch_instruction(const Role& role, const Instruction* instruction) {
    return reinterpret_cast<const uint32_t*>(instruction)[role.lane()];
  }

  static __device__ __forceinline__ InstructionHead head_of(const Role&,
                                                            FetchedInstruction fetched) {
    const uint32_t word = __shfl_sync(~0u, fetched, 0);
    return {static_cast<Opcode>(word), static_cast<uint8_t>(word >> 16),
            static_cast<uint8_t>(word >> 24)};
  }

  static __device__ __forceinline__ void write_instruction(Role& role, InstructionSlot& slot,
                                                           FetchedInstruction fetched,
                                                           int32_t layer, uint32_t position,
                                                           bool end) {
    reinterpret_cast<uint32_t*>(&slot.instruction)[role.lane()] = fetched;
    if (role.lane() == 0) {
      slot.end = end ? 1 : 0;
      slot.position = position;
      slot.layer = layer;
    }
  }

  static __device__ __forceinline__ void expect_done(const Role&, uint32_t) {}

  static __device__ __forceinline__ uint64_t now_ns() { return globaltimer_ns(); }
};

}  // namespace terrazzo::sm90
