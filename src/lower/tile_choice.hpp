// How a matrix product is cut into GEMM tiles, and the order of these in the queue.
#pragma once

#include <algorithm>
#include <cstdint>

#include "terrazzo/core/geometry.hpp"
#include "terrazzo/core/math.hpp"

namespace terrazzo {

inline constexpr uint32_t kWaveBlocks =
    16;  // row blocks that share a weight tile while it is in L2

/// Time of a tile of 128 rows, measured (docs/performance/log.md), in hundredths of that of a tile
/// of 4 panels: narrow tiles load more for what they multiply.
inline constexpr uint64_t kWholeTile = 100;
constexpr uint64_t tile_cost(uint32_t panels) {
  return panels == kPanelsPerColTile ? kWholeTile : panels == 2 ? 58 : 42;
}

/// Panels of a tile: 4, or fewer where the waves of narrower tiles take less time, but not fewer
/// than `least`. `small`: few tokens, operands swapped; such tiles stream weights, so their time is
/// their weights'.
inline uint32_t choose_tile_panels(uint32_t panels, uint32_t blocks, uint32_t least,
                                   uint32_t num_sms, bool small) {
  uint32_t best = kPanelsPerColTile;
  uint64_t best_cost = UINT64_MAX;
  for (uint32_t tile = kPanelsPerColTile; tile >= least; tile /= 2) {
    const uint64_t waves = ceil_div(ceil_div(panels, tile) * blocks, num_sms);
    const uint64_t cost = waves * (small ? tile * kWholeTile / kPanelsPerColTile : tile_cost(tile));
    if (cost < best_cost) {
      best = tile;
      best_cost = cost;
    }
  }
  return best;
}

/// Calls body(block, first panel, panels): in each wave of row blocks tile by tile, so that a
/// weight tile is read from memory once a wave. `rotation` shifts where in a wave this GPU starts.
template <class Body>
void for_each_tile(uint32_t blocks, uint32_t panels, uint32_t tile, uint32_t rotation,
                   const Body& body) {
  for (uint32_t wave = 0; wave < blocks; wave += kWaveBlocks) {
    const uint32_t count = std::min(kWaveBlocks, blocks - wave);
    for (uint32_t panel = 0; panel < panels; panel += tile) {
      for (uint32_t i = 0; i < count; ++i) {
        body(wave + (i + rotation) % count, panel, std::min(tile, panels - panel));
      }
    }
  }
}

}  // namespace terrazzo
