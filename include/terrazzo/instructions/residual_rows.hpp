// What instructions that write the residual stream share: panels and their sums of squares to all
// GPUs.
#pragma once

#include "terrazzo/instructions/addresses.hpp"
#include "terrazzo/instructions/gemm_load.hpp"
#include "terrazzo/vm/storer.hpp"

namespace terrazzo {

/// 16-byte copies of fp32 vectors: whole groups of 4 rows.
constexpr TERRAZZO_GROUP_FN uint32_t vector_rows(uint32_t rows) { return round_up(rows, 4u); }

/// Rounds a panel into the next stage.
template <class M, class Panel>
TERRAZZO_GROUP_FN void publish_panel(Consumer<M>& consumer, const Panel& panel, uint32_t rows) {
  auto stage = consumer.stage();
  store_panel(stage, panel, rows, [](uint32_t row) TERRAZZO_LAMBDA { return row; });
  consumer.publish(stage);
}

/// The same, with the sums of squares of its rows.
template <class M, class Panel>
TERRAZZO_GROUP_FN void publish_residual_panel(Consumer<M>& consumer, const Panel& panel,
                                              uint32_t rows) {
  auto stage = consumer.stage();
  store_panel_with_sums(stage, panel, rows);
  consumer.publish(stage);
}

/// Stores `panels` residual panels of a row block, from `first_panel`, to GPUs [gpu_begin,
/// gpu_end).
template <class M>
TERRAZZO_GROUP_FN void store_residual_panels(Storer<M>& storer, Buffer rows_buffer,
                                             Buffer sums_buffer, uint32_t block,
                                             uint32_t first_panel, uint32_t panels, RowSpan span,
                                             uint32_t gpu_begin, uint32_t gpu_end) {
  if (span.count == 0) {
    return;
  }
  const StepParams& params = storer.params;
  for (uint32_t panel = first_panel; panel < first_panel + panels; ++panel) {
    const auto stage = storer.take();
    for (uint32_t gpu = gpu_begin; gpu < gpu_end; ++gpu) {
      std::byte* const tile =
          tile_address(params, gpu, rows_buffer, block, params.shape.hidden_panels(), panel);
      storer.store(tile + span.begin * kRowBytes, stage, 0, span.count * kRowBytes);
      float* const line = line_address(params, gpu, sums_buffer, block, panel);
      storer.store_vector(line + span.begin, stage, 0, vector_rows(span.count));
    }
    storer.release(stage);
  }
}

/// Stores `panels` panels of a row-block buffer of `block_panels` panels, from `first_panel`, to
/// one GPU.
template <class M>
TERRAZZO_GROUP_FN void store_panels(Storer<M>& storer, uint32_t gpu, Buffer buffer, uint32_t block,
                                    uint32_t block_panels, uint32_t first_panel, uint32_t panels,
                                    RowSpan span) {
  if (span.count == 0) {
    return;
  }
  for (uint32_t panel = first_panel; panel < first_panel + panels; ++panel) {
    const auto stage = storer.take();
    std::byte* const tile = tile_address(storer.params, gpu, buffer, block, block_panels, panel);
    storer.store(tile + span.begin * kRowBytes, stage, 0, span.count * kRowBytes);
    storer.release(stage);
  }
}

// --- row factors: sums of squares, through slots at the end of the stream ---

inline constexpr uint32_t kLineBytes = kRowBlock * sizeof(float);
inline constexpr uint32_t kLinesPerSlot = kSlotBytes / kLineBytes;  // 32

constexpr TERRAZZO_GROUP_FN uint32_t line_slots(const ModelShape& shape) {
  return ceil_div(shape.hidden_panels(), kLinesPerSlot);
}

template <class M>
TERRAZZO_GROUP_FN void load_lines(Loader<M>& loader, Buffer buffer, uint32_t block, uint32_t rows) {
  const StepParams& params = loader.params;
  const uint32_t lines = params.shape.hidden_panels();
  const auto bytes = static_cast<uint32_t>(vector_rows(rows) * sizeof(float));
  for (uint32_t line = 0; line < lines; line += kLinesPerSlot) {
    const uint32_t count = lines - line < kLinesPerSlot ? lines - line : kLinesPerSlot;
    const auto slot = loader.fill(count * bytes);
    const auto* const source =
        reinterpret_cast<const std::byte*>(line_address(params, params.gpu, buffer, block, line));
    if (bytes == kLineBytes) {  // whole lines lie one after the other
      loader.copy(slot, 0, source, count * kLineBytes);
      continue;
    }
    loader.for_each_lane(count, [&](uint32_t i) TERRAZZO_LAMBDA {
      loader.copy_from_lane(slot, i * kLineBytes, source + i * kLineBytes, bytes);
    });
  }
}

/// The rows' residual panels, a slot each.
template <class M>
TERRAZZO_GROUP_FN void load_residuals(Loader<M>& loader, Buffer buffer, const GemmArgs& args) {
  const StepParams& params = loader.params;
  const uint32_t bytes = args.rows * kRowBytes;
  loader.fill_run(
      args.panels, 1, [&](uint32_t) TERRAZZO_LAMBDA { return bytes; },
      [&](uint32_t p, uint32_t) TERRAZZO_LAMBDA {
        return SlotPiece{0,
                         tile_address(params, params.gpu, buffer, args.row_block,
                                      params.shape.hidden_panels(), args.first_panel + p),
                         bytes};
      });
}

/// 1 / rms of this consumer's rows.
template <class M, class RowVector>
TERRAZZO_GROUP_FN void use_row_factors(RowVector& factors, Consumer<M>& consumer) {
  const Instruction& instruction = consumer.instruction();
  const RowSpan span = consumer_rows(instruction, instruction.args.gemm.rows, consumer.index());
  const ModelShape& shape = consumer.params.shape;
  const uint32_t lines = shape.hidden_panels();
  clear(factors);
  for (uint32_t line = 0; line < lines; line += kLinesPerSlot) {
    const uint32_t count = lines - line < kLinesPerSlot ? lines - line : kLinesPerSlot;
    const auto slot = consumer.use();
    add_lines(factors, slot, count, span.begin, span.count);
    consumer.release(slot);
  }
  rstd(factors, shape.hidden, shape.norm_eps, span.count);
}

}  // namespace terrazzo
