// The host machine with its tiles: what instructions are compiled for.
#pragma once

#include "terrazzo/arch/host/machine.hpp"
#include "terrazzo/tile/host/attention.hpp"
#include "terrazzo/tile/host/gather.hpp"
#include "terrazzo/tile/host/mma.hpp"
#include "terrazzo/tile/host/panel.hpp"
#include "terrazzo/tile/host/sampling.hpp"
#include "terrazzo/tile/host/tiles.hpp"

namespace terrazzo::host {

struct TileMachine : Machine {
  static constexpr uint32_t kHeadPanels = 0;        // any
  static constexpr bool kScoresNeedNoKeys = false;  // they are computed with the output

  using Accumulator = host::Accumulator;
  using SmallAccumulator = host::Accumulator;
  using Panel = host::Panel;

  static RowVector row_vector(Role&, uint32_t) { return {}; }

  template <uint32_t kPanels>
  using PrefillAttention = host::AttentionTile;
  template <uint32_t kPanels>
  using PrefillTotal = host::AttentionTile;
  template <uint32_t kPanels, uint32_t kGroups>
  using DecodeAttention = host::AttentionTile;

  template <uint32_t kPanels>
  static Queries prefill_queries(Role&) {
    Queries queries;
    return queries;
  }
  template <uint32_t kPanels, uint32_t kGroups>
  static Queries decode_queries(Role&, uint32_t, const Stage&) {
    Queries queries;
    return queries;
  }
};

}  // namespace terrazzo::host
