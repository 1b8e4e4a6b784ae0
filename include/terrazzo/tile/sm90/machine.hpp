// The Hopper machine with its tiles: what instructions are compiled for.
#pragma once

#include "terrazzo/arch/sm90/machine.hpp"
#include "terrazzo/tile/sm90/attention.hpp"
#include "terrazzo/tile/sm90/gather.hpp"
#include "terrazzo/tile/sm90/mma.hpp"
#include "terrazzo/tile/sm90/panel_move.hpp"
#include "terrazzo/tile/sm90/sampling.hpp"
#include "terrazzo/tile/sm90/tiles.hpp"

namespace terrazzo::sm90 {

/// `kPanelsOfHead`: 64-column panels of an attention head. A kernel holds one size.
template <uint32_t kPanelsOfHead>
struct TileMachine : Machine {
  static constexpr uint32_t kHeadPanels = kPanelsOfHead;
  static constexpr bool kScoresNeedNoKeys = true;  // keys may go once `scores_wait` is over
  using Accumulator = sm90::Accumulator;
  using SmallAccumulator = sm90::SmallAccumulator;
  using Panel = sm90::Panel;
  template <uint32_t kPanels>
  using PrefillAttention = sm90::PrefillAttention<kPanels>;
  template <uint32_t kPanels>
  using PrefillTotal = sm90::PrefillTotal<kPanels>;
  template <uint32_t kPanels, uint32_t kGroups>
  using DecodeAttention = sm90::DecodeAttention<kPanels, kGroups>;

  static __device__ __forceinline__ RowVector row_vector(Role& role, uint32_t consumer) {
    return {role.shared().row_vectors[consumer], consumer_barrier(consumer)};
  }

  template <uint32_t kPanels>
  static __device__ __forceinline__ auto prefill_queries(Role& role) {
    return sm90::prefill_queries<kPanels>(role);
  }
  template <uint32_t kPanels, uint32_t kGroups>
  static __device__ __forceinline__ auto decode_queries(Role& role, uint32_t consumer,
                                                        const Stage& stage) {
    return sm90::decode_queries<kPanels, kGroups>(role, consumer, stage);
  }
};

}  // namespace terrazzo::sm90
