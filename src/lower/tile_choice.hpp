// How a matrix product is cut into GEMM tiles, and the order of these in the queue.
#pragma once

#include <algorithm>
#include <cstdint>

#include "terrazzo/core/geometry.hpp"
#include "terrazzo/core/math.hpp"

namespace terrazzo {

// Row blocks that share a weight tile while it is in L2.
inline constexpr uint32_t kWaveBlocks = 16;
// For fewer of them, weights take longer to come from memory than their products.
inline constexpr uint32_t kFewestWaveBlocks = 4;

/// Nanoseconds of a k tile of a tile of 128 rows when `sms` SMs work, from runs on an H100
/// (docs/performance/log.md): the tensor cores' and the ring's, or what L2 needs to feed so many.
constexpr uint64_t k_tile_ns(uint32_t panels, uint64_t sms) {
  constexpr uint64_t kL2BytesPerNs = 8000;
  const uint64_t alone = panels == 1 ? 370 : panels == 2 ? 420 : 650;
  return std::max(alone, sms * (kPanelBytes + panels * kHalfPanelBytes) / kL2BytesPerNs);
}

/// Panels of a tile: 4, or fewer where the waves of narrower tiles take less time, but not fewer
/// than `least`. `small`: few tokens, operands swapped; such tiles stream weights, so their time is
/// their weights'.
inline uint32_t choose_tile_panels(uint32_t panels, uint32_t blocks, uint32_t least,
                                   uint32_t num_sms, bool small) {
  uint32_t best = kPanelsPerColTile;
  uint64_t best_time = UINT64_MAX;
  for (uint32_t tile = kPanelsPerColTile; tile >= least; tile /= 2) {
    const uint64_t tiles = uint64_t{ceil_div(panels, tile)} * blocks;
    const uint64_t busy = std::min<uint64_t>(tiles, num_sms);
    const uint64_t time =
        ceil_div<uint64_t>(tiles, num_sms) * (small ? tile : k_tile_ns(tile, busy));
    if (time < best_time) {
      best = tile;
      best_time = time;
    }
  }
  return best;
}

/// Row blocks of a wave of products beside which GPUs wait for each other's sums: at least two
/// waves, if they are not too small, so that the sums of one travel behind the products of the
/// next.
constexpr uint32_t wave_beside_peers(uint32_t blocks, uint32_t world) {
  if (world == 1 || blocks < 2 * kFewestWaveBlocks) {
    return kWaveBlocks;
  }
  return ceil_div(blocks, std::max(2U, ceil_div(blocks, kWaveBlocks)));
}
static_assert(wave_beside_peers(7, 2) == kWaveBlocks && wave_beside_peers(32, 1) == kWaveBlocks);
static_assert(wave_beside_peers(8, 2) == 4 && wave_beside_peers(9, 8) == 5);
static_assert(wave_beside_peers(17, 2) == 9 && wave_beside_peers(32, 2) == 16);
static_assert(wave_beside_peers(33, 2) == 11);

/// The tiles of a product, and their order.
struct TileGrid {
  uint32_t blocks;        // of rows
  uint32_t panels;        // of columns
  uint32_t tile;          // panels of one
  uint32_t rotation = 0;  // where in a wave this GPU starts
  uint32_t wave_blocks = kWaveBlocks;
};

/// Calls body(block, first panel, panels): in each wave of row blocks tile by tile, so that a
/// weight tile is read from memory once a wave.
template <class Body>
void for_each_tile(const TileGrid& grid, const Body& body) {
  for (uint32_t wave = 0; wave < grid.blocks; wave += grid.wave_blocks) {
    const uint32_t count = std::min(grid.wave_blocks, grid.blocks - wave);
    for (uint32_t panel = 0; panel < grid.panels; panel += grid.tile) {
      uint32_t block = grid.rotation % count;
      for (uint32_t i = 0; i < count; ++i) {
        body(wave + block, panel, std::min(grid.tile, grid.panels - panel));
        block = block + 1 < count ? block + 1 : 0;
      }
    }
  }
}

}  // namespace terrazzo
