// What kernels around single verbs share: a slot, a stage, and accumulators from memory. One
// warpgroup, on the GPU or on lanes.
#pragma once

#include "terrazzo/arch/sm90/machine.hpp"
#include "terrazzo/tile/sm90/tiles.hpp"

namespace terrazzo::testing {

inline constexpr uint32_t kBarrier = 1;

struct alignas(1024) Memory {
  std::byte stage[kStageBytes];
  std::byte slot[kSlotBytes];
  float vector[kStageVectorElems];
  float factors[kHalfRows];
};

__device__ inline sm90::Stage stage_of(Memory& memory) {
  return {sm90::shared_address(memory.stage), memory.vector, kBarrier, 0};
}
__device__ inline sm90::Slot slot_of(Memory& memory) {
  return {sm90::shared_address(memory.slot), 0};
}

/// By the whole block, after what it did before; done at return. `bytes`: a multiple of 4.
__device__ inline void copy_bytes(void* target, const void* source, uint32_t bytes) {
  __syncthreads();
  for (uint32_t i = sm90::thread_index(); i < bytes / 4; i += sm90::kConsumerThreads) {
    static_cast<uint32_t*>(target)[i] = static_cast<const uint32_t*>(source)[i];
  }
  __syncthreads();
}

/// Calls f(value, row, column) for every accumulator: rows are tokens in both shapes.
template <class F>
__device__ __forceinline__ void for_each_accumulator(sm90::Accumulator& acc, F f) {
  const sm90::ThreadPlace place = sm90::thread_place();
#pragma unroll
  for (uint32_t i = 0; i < kColTile / 2; ++i) {
    f(acc.values[i], place.row + i % 4 / 2 * 8, i / 4 * 8 + place.pair + i % 2);
  }
}

template <class F>
__device__ __forceinline__ void for_each_accumulator(sm90::SmallAccumulator& acc, F f) {
  const sm90::ThreadPlace place = sm90::thread_place();
#pragma unroll
  for (uint32_t panel = 0; panel < kPanelsPerColTile; ++panel) {
#pragma unroll
    for (uint32_t i = 0; i < sm90::kSmallTokensPerConsumer / 2; ++i) {
      f(acc.values[panel][i], i / 4 * 8 + place.pair + i % 2,
        panel * kPanelCols + place.row + i % 4 / 2 * 8);
    }
  }
}

/// [rows][256] values as a product of token rows, or of weight rows, leaves them.
template <class Acc>
__device__ __forceinline__ void load_accumulators(Acc& acc, const float* values) {
  for_each_accumulator(acc, [&](float& value, uint32_t row, uint32_t column)
                                TERRAZZO_LAMBDA { value = values[row * kColTile + column]; });
}

}  // namespace terrazzo::testing
