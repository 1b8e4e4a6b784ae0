// Sizes of tiles, slots and pages, and the one swizzle that every tile uses.
#pragma once

#include <cstdint>

#include "terrazzo/core/bf16.hpp"
#include "terrazzo/core/config.hpp"
#include "terrazzo/core/math.hpp"

namespace terrazzo {

inline constexpr uint32_t kPanelCols = 64;                           // bf16 columns of a tile
inline constexpr uint32_t kRowBytes = kPanelCols * sizeof(bf16);     // 128: the swizzle span
inline constexpr uint32_t kChunkBytes = 16;                          // unit of the swizzle
inline constexpr uint32_t kChunkElems = kChunkBytes / sizeof(bf16);  // 8
inline constexpr uint32_t kRowBlock = 128;                           // token rows of a GEMM tile
inline constexpr uint32_t kHalfRows = kRowBlock / 2;                 // rows of one consumer
inline constexpr uint32_t kColTile = 256;  // output columns of a GEMM tile
inline constexpr uint32_t kPanelsPerColTile = kColTile / kPanelCols;  // 4
inline constexpr uint32_t kSmallRows = 64;   // most tokens of an operand-swapped tile
inline constexpr uint32_t kPageTokens = 64;  // tokens of a KV page
inline constexpr uint32_t kPanelBytes = kRowBlock * kRowBytes;      // 16 KB: [128, 64] bf16
inline constexpr uint32_t kHalfPanelBytes = kHalfRows * kRowBytes;  // 8 KB: [64, 64] bf16
inline constexpr uint32_t kSlotBytes = 16 * 1024;
inline constexpr uint32_t kNumSlots = 12;
inline constexpr uint32_t kStageBytes = kHalfPanelBytes;  // one output panel of one consumer
inline constexpr uint32_t kStagesPerConsumer = 2;
inline constexpr uint32_t kNumConsumers = 2;
inline constexpr uint32_t kStageVectorElems = kHalfRows;  // fp32 per-row values beside a stage
inline constexpr uint32_t kMaxGpus = 8;
inline constexpr uint32_t kMaxDecodeHeads = 16;  // query heads of a KV head on the CUDA machine

// Gate and up columns, and the two halves of a rotary pair, alternate in runs of 8 columns, so that
// both members of a pair lie in one thread's accumulators whichever operand is the weight.
inline constexpr uint32_t kPairRun = 8;

/// Byte offset of the 16-byte chunk `chunk` of row `row` in a tile of 128-byte rows (128-byte
/// swizzle).
constexpr TERRAZZO_FN uint32_t chunk_offset(uint32_t row, uint32_t chunk) {
  return row * kRowBytes + ((chunk ^ (row & 7u)) * kChunkBytes);
}

/// Byte offset of the bf16 element (row, col), col < 64, in a swizzled tile.
constexpr TERRAZZO_FN uint32_t element_offset(uint32_t row, uint32_t col) {
  return chunk_offset(row, col / kChunkElems) + (col % kChunkElems) * sizeof(bf16);
}

static_assert(kPanelBytes == kSlotBytes && kPageTokens * kRowBytes == kHalfPanelBytes);
static_assert(chunk_offset(0, 3) == 48 && chunk_offset(1, 0) == 128 + 16 &&
              chunk_offset(7, 7) == 896);

}  // namespace terrazzo
