// What a launch is given: one struct, the same for all SMs of a GPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "terrazzo/core/heap.hpp"
#include "terrazzo/core/program.hpp"
#include "terrazzo/core/step_tables.hpp"

namespace terrazzo {

/// A matrix in tiles: [column tiles of 256][k panels][rows of the tile][64] bf16, each [rows, 64]
/// tile swizzled and contiguous; the last column tile has only the rows that the matrix has (64,
/// 128, 192 or 256). "Rows" of a tile are the output columns of the matrix.
struct WeightView {
  const std::byte* data;
  uint64_t layer_stride_bytes;
  uint32_t panels;    // 64-column output panels
  uint32_t k_panels;  // 64-deep input panels

  /// Address of output panel `panel` (64 rows, 8 KB; up to the tile's end the next ones follow) at
  /// k tile `k`.
  constexpr TERRAZZO_GROUP_FN const std::byte* at(uint32_t layer, uint32_t panel,
                                                  uint32_t k) const {
    const uint32_t tile = panel / kPanelsPerColTile;
    const uint32_t left = panels - tile * kPanelsPerColTile;
    const uint32_t tile_panels = left < kPanelsPerColTile ? left : kPanelsPerColTile;
    const uint64_t block = uint64_t{tile} * kPanelsPerColTile * k_panels +
                           uint64_t{k} * tile_panels + panel % kPanelsPerColTile;
    return data + layer * layer_stride_bytes + block * kHalfPanelBytes;
  }
};

struct ModelView {
  WeightView matrices[kNumMatrices];  // by Matrix
  const bf16* embedding;              // [vocab, hidden panels * 64] row-major
  const bf16* final_norm;             // [hidden panels * 64]
  const float* rope;  // [max position, head_dim]: head_dim / 2 cosines, then as many sines

  constexpr TERRAZZO_GROUP_FN const WeightView& matrix(Matrix which) const {
    return matrices[static_cast<uint32_t>(which)];
  }
};

struct StepParams {
  ModelShape shape;
  StepLimits limits;
  HeapLayout layout;
  ModelView model;
  StepTables tables;
  ProgramView program;
  std::byte* heaps[kMaxGpus];  // base of every GPU's heap, as seen from this GPU
  uint32_t gpu;
  uint32_t bank;           // of the counters, by step
  uint64_t bank_counters;  // uint32 counters of one bank
  uint64_t watchdog_ns;    // longest wait
  uint32_t trace;          // record events

  TERRAZZO_GROUP_FN std::byte* address(uint32_t on_gpu, Buffer buffer, uint64_t offset) const {
    return heaps[on_gpu] + layout.at(buffer) + offset;
  }
  TERRAZZO_GROUP_FN uint32_t* counters(uint32_t on_gpu) const {
    return reinterpret_cast<uint32_t*>(
        address(on_gpu, Buffer::kCounters, bank * bank_counters * sizeof(uint32_t)));
  }
};

}  // namespace terrazzo
