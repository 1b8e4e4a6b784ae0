// gather_norm: the rows that need logits, side by side, with the final norm applied.
#pragma once

#include "terrazzo/instructions/residual_rows.hpp"

namespace terrazzo {

/// Streams the rows' sums of squares, then one slot a hidden panel. Sums come as groups of 4
/// floats, the smallest copy: [line][row] groups, as many lines a slot as fit.
struct GatherNorm {
  static constexpr bool kHasProducts = false;

  static constexpr uint32_t kGroupRows = 4;
  static constexpr uint32_t kGroupBytes = kGroupRows * sizeof(float);

  static constexpr TERRAZZO_GROUP_FN uint32_t lines_per_slot(uint32_t rows) {
    return kSlotBytes / (rows * kGroupBytes);
  }

  static constexpr TERRAZZO_GROUP_FN SlotPlan slots(const Instruction& instruction,
                                                    const StepParams& params) {
    const uint32_t panels = params.shape.hidden_panels();
    const uint32_t lines = lines_per_slot(instruction.args.gather.rows);
    return {0, ceil_div(panels, lines) + panels, 1};
  }

  /// Calls f(first line, lines) for each slot of sums.
  template <class F>
  static TERRAZZO_GROUP_FN void for_each_sums_slot(const ModelShape& shape, uint32_t rows, F f) {
    const uint32_t panels = shape.hidden_panels();
    const uint32_t most = lines_per_slot(rows);
    for (uint32_t line = 0; line < panels; line += most) {
      f(line, panels - line < most ? panels - line : most);
    }
  }

  static TERRAZZO_GROUP_FN const LogitInfo* compact_rows(const StepParams& params,
                                                         const GatherArgs& args) {
    return params.tables.logit_rows + args.compact_block * kRowBlock;
  }

  template <class M>
  static TERRAZZO_GROUP_FN void load(Loader<M>& loader) {
    const GatherArgs& args = loader.instruction().args.gather;
    const StepParams& params = loader.params;
    const uint32_t panels = params.shape.hidden_panels();
    const LogitInfo* const compact = compact_rows(params, args);
    loader.wait_all();
    for_each_sums_slot(
        params.shape, args.rows, [&](uint32_t first, uint32_t lines) TERRAZZO_LAMBDA {
          const auto slot = loader.fill(lines * args.rows * kGroupBytes);
          for (uint32_t line = 0; line < lines; ++line) {
            for (uint32_t i = 0; i < args.rows; ++i) {
              const uint32_t row = compact[i].row;
              const float* const source =
                  line_address(params, params.gpu, Buffer::kSumSqX, row / kRowBlock, first + line) +
                  row % kRowBlock / kGroupRows * kGroupRows;
              loader.copy(slot, (line * args.rows + i) * kGroupBytes,
                          reinterpret_cast<const std::byte*>(source), kGroupBytes);
            }
          }
        });
    for (uint32_t panel = 0; panel < panels; ++panel) {
      const auto slot = loader.fill(args.rows * kRowBytes);
      for (uint32_t i = 0; i < args.rows;) {
        const uint32_t count = run_length(compact, i, args.rows);
        const uint32_t row = compact[i].row;
        loader.copy(slot, i * kRowBytes,
                    tile_address(params, params.gpu, Buffer::kX, row / kRowBlock, panels, panel) +
                        row % kRowBlock * kRowBytes,
                    count * kRowBytes);
        i += count;
      }
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void consume(Consumer<M>& consumer) {
    const GatherArgs args = consumer.instruction().args.gather;
    const StepParams& params = consumer.params;
    const ModelShape& shape = params.shape;
    const RowSpan span = consumer_rows(consumer.instruction(), args.rows, consumer.index());
    const LogitInfo* const compact = compact_rows(params, args) + span.begin;
    auto factors = consumer.row_vector();
    clear(factors);
    for_each_sums_slot(shape, args.rows, [&](uint32_t, uint32_t lines) TERRAZZO_LAMBDA {
      const auto slot = consumer.use();
      add_gathered_lines(factors, slot, lines, args.rows, span.begin, span.count,
                         [&](uint32_t row)
                             TERRAZZO_LAMBDA { return compact[row].row % kGroupRows; });
      consumer.release(slot);
    });
    rstd(factors, shape.hidden, shape.norm_eps, span.count);
    for (uint32_t panel = 0; panel < shape.hidden_panels(); ++panel) {
      const auto slot = consumer.use();
      typename M::Panel values;
      load_gathered_rows(values, slot, span.begin, span.count,
                         [&](uint32_t row) TERRAZZO_LAMBDA { return compact[row].row; });
      consumer.release(slot);
      if (span.count != 0) {
        scale_panel(values, factors, params.model.final_norm + panel * kPanelCols, span.count);
        auto stage = consumer.stage();
        store_panel(stage, values, span.count, [](uint32_t row) TERRAZZO_LAMBDA { return row; });
        consumer.publish(stage);
      }
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store(Storer<M>& storer) {
    const GatherArgs& args = storer.instruction().args.gather;
    const StepParams& params = storer.params;
    const RowSpan span = consumer_rows(storer.instruction(), args.rows, storer.index());
    const uint32_t panels = params.shape.hidden_panels();
    store_panels(storer, params.gpu, Buffer::kCompact, args.compact_block, panels, 0, panels, span);
  }

 private:
  /// How many compact rows from `first` on are neighbours in a row block: one copy takes them all.
  static TERRAZZO_GROUP_FN uint32_t run_length(const LogitInfo* compact, uint32_t first,
                                               uint32_t rows) {
    const uint32_t row = compact[first].row;
    uint32_t count = 1;
    while (first + count < rows && compact[first + count].row == row + count &&
           (row + count) % kRowBlock != 0) {
      ++count;
    }
    return count;
  }
};

}  // namespace terrazzo
