// gather_norm: the rows that need logits, side by side, with the final norm applied.
#pragma once

#include "terrazzo/instructions/residual_rows.hpp"

namespace terrazzo {

/// Streams one slot a panel: the rows' 128-byte pieces in compact order. The rows' sums of squares
/// are read where they lie: in slots they would be thousands of 16-byte copies.
struct GatherNorm {
  static constexpr bool kHasProducts = false;

  static constexpr TERRAZZO_GROUP_FN SlotPlan slots(const Instruction& instruction,
                                                    const StepParams&) {
    return {instruction.args.gather.panels, 1};
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
    for (uint32_t panel = args.first_panel; panel < args.first_panel + args.panels; ++panel) {
      const auto slot = loader.fill(args.rows * kRowBytes);
      loader.gather_rows(slot, args.rows, [&](uint32_t i) TERRAZZO_LAMBDA {
        const uint32_t row = compact[i].row;
        return tile_address(params, params.gpu, Buffer::kX, row / kRowBlock, panels, panel) +
               row % kRowBlock * kRowBytes;
      });
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
    for (uint32_t p = 0; p < args.panels; ++p) {
      const auto slot = consumer.use();
      if (p == 0) {  // what the loader waited for is visible from here on
        clear(factors);
        add_values(factors, span.count, shape.hidden_panels(),
                   [&](uint32_t line, uint32_t row) TERRAZZO_LAMBDA {
                     const uint32_t from = compact[row].row;
                     return consumer.read(
                         line_address(params, params.gpu, Buffer::kSumSqX, from / kRowBlock, line) +
                         from % kRowBlock);
                   });
        rstd(factors, shape.hidden, shape.norm_eps, span.count);
      }
      typename M::Panel values;
      load_gathered_rows(values, slot, span.begin, span.count,
                         [&](uint32_t row) TERRAZZO_LAMBDA { return compact[row].row; });
      consumer.release(slot);
      if (span.count != 0) {
        scale_panel(values, factors, params.model.final_norm + (args.first_panel + p) * kPanelCols,
                    span.count);
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
    store_panels(storer, params.gpu, Buffer::kCompact, args.compact_block, panels, args.first_panel,
                 args.panels, span);
  }
};

}  // namespace terrazzo
