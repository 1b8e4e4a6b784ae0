// A body that calls the verbs on accumulators and panels one after the other and writes what each
// of them leaves. Every verb begins from the same bits as on the host machine.
#pragma once

#include <type_traits>

#include "terrazzo/tile/sm90/gather.hpp"
#include "terrazzo/tile/sm90/panel_move.hpp"
#include "tile_memory.cuh"
#include "tile_twin.hpp"

namespace terrazzo::testing {

/// PanelCase on the device.
struct PanelRun {
  uint32_t rows;
  uint32_t first_row;
  uint32_t panel;
  uint32_t head_panel;
  uint32_t head_dim;
  uint32_t lines;
  uint32_t hidden;
  float eps;
  const float* accumulators;
  const float* sums;
  const float* factors;
  const float* tables;
  const bf16* tile;
  const bf16* weight;
  const uint32_t* targets;
  PanelResult* out;
};

/// `Acc`: tokens as rows, or operands swapped.
template <class Acc>
struct PanelVerbs {
  using Memory = testing::Memory;
  static constexpr bool kIsPlain = std::is_same_v<Acc, sm90::Accumulator>;
  PanelRun run;

  template <class AnyPanel>
  __device__ __forceinline__ void write(float (&out)[kHalfRows][kPanelCols], AnyPanel panel) const {
    for_each_element(panel, [&](float& value, uint32_t row, uint32_t column) TERRAZZO_LAMBDA {
      if (row < run.rows) {
        out[row][column] = value;
      }
    });
  }

  /// The stage's rows, row r as if it lay in row `target_of(r)` of its tile.
  template <class TargetOf>
  __device__ __forceinline__ void write_stage(bf16 (&out)[kHalfRows][kPanelCols], Memory& memory,
                                              TargetOf target_of) const {
    __syncthreads();
    for (uint32_t i = sm90::thread_index(); i < run.rows * kPanelCols;
         i += sm90::kConsumerThreads) {
      const uint32_t row = i / kPanelCols;
      const uint32_t swizzle = target_of(row) & 7u;
      const uint32_t at =
          row * kRowBytes + element_offset(swizzle, i % kPanelCols) - swizzle * kRowBytes;
      out[row][i % kPanelCols] = *reinterpret_cast<const bf16*>(memory.stage + at);
    }
    __syncthreads();
  }

  __device__ __forceinline__ void write_vector(float (&out)[kHalfRows], const float* values) const {
    __syncthreads();
    if (const uint32_t row = sm90::thread_index(); row < run.rows) {
      out[row] = values[row];
    }
    __syncthreads();
  }

  __device__ __forceinline__ void run_rows(Memory& memory, sm90::RowVector& factors) const {
    PanelResult& out = *run.out;
    clear(factors);
    copy_bytes(memory.slot, run.sums, run.lines * kRowBlock * sizeof(float));
    add_lines(factors, slot_of(memory), run.lines, run.first_row, run.rows);
    write_vector(out.sums, factors.values);
    rstd(factors, run.hidden, run.eps, run.rows);
    write_vector(out.rstd, factors.values);
    copy_bytes(factors.values, run.factors, kHalfRows * sizeof(float));
  }

  template <class TargetOf>
  __device__ __forceinline__ void run_gated(Memory& memory, const Acc& acc, TargetOf target) const {
    sm90::Stage stage = stage_of(memory);
#pragma unroll 1
    for (uint32_t p = 0; p < kPanelsPerColTile / 2; ++p) {
      const auto gated = take_gated_panel(acc, p, run.rows);
      write(run.out->gated[p], gated);
      store_panel(stage, gated, run.rows, target);
      write_stage(run.out->stored_gated[p], memory, target);
    }
  }

  template <class TargetOf>
  __device__ __forceinline__ void run_loads(Memory& memory, const sm90::RowVector& factors,
                                            TargetOf target) const {
    const sm90::Slot slot = slot_of(memory);
    sm90::Panel panel;
    load_plain_rows(panel, slot, run.first_row, run.rows);
    write(run.out->plain, panel);
    load_gathered_rows(panel, slot, run.first_row, run.rows, target);
    write(run.out->gathered, panel);
    scale_panel(panel, factors, run.weight, run.rows);
    write(run.out->weighted, panel);
    clear(panel, run.rows);
    add_tile(panel, slot, run.first_row, run.rows);
    write(run.out->cleared, panel);
  }

  __device__ __forceinline__ void operator()(Memory& memory) const {
    PanelResult& out = *run.out;
    const uint32_t rows = run.rows;
    sm90::Stage stage = stage_of(memory);
    const sm90::Slot slot = slot_of(memory);
    sm90::RowVector factors{memory.factors, kBarrier};
    const auto target = [&](uint32_t row) TERRAZZO_LAMBDA { return run.targets[row]; };
    run_rows(memory, factors);

    Acc acc;
    load_accumulators(acc, run.accumulators);
    run_gated(memory, acc, target);
    scale_rows(acc, factors, rows, kPanelsPerColTile);
#pragma unroll 1
    for (uint32_t p = 0; p < kPanelsPerColTile; ++p) {
      write(out.scaled[p], take_panel(acc, p, rows));
    }

    copy_bytes(memory.slot, run.tile, kSlotBytes);
    auto panel = take_panel(acc, run.panel, rows);
    add_tile(panel, slot, run.first_row, rows);
    write(out.added, panel);
    store_panel(stage, panel, rows, target);
    write_stage(out.stored, memory, target);
    store_panel_with_sums(stage, panel, rows);
    write_stage(out.stored_with_sums, memory, [](uint32_t row) TERRAZZO_LAMBDA { return row; });
    write_vector(out.squares, stage.vector);
    rotate(panel, run.head_panel, run.head_dim, rows,
           [&](uint32_t row) TERRAZZO_LAMBDA { return run.tables + row * run.head_dim; });
    write(out.rotated, panel);
    if constexpr (kIsPlain) {
      run_loads(memory, factors, target);
    }
  }
};

}  // namespace terrazzo::testing
