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
  using Accumulator = host::Accumulator;
  using SmallAccumulator = host::Accumulator;
  using Panel = host::Panel;

  static RowVector row_vector(Role&, uint32_t) { return {}; }
  using Queries = host::Queries;
  using AttentionTile = host::AttentionTile;
};

}  // namespace terrazzo::host
