// embed: token ids -> residual rows and their sums of squares.
#pragma once

#include "terrazzo/instructions/residual_rows.hpp"

namespace terrazzo {

/// Streams one slot a panel: the 128-byte pieces of the rows' embeddings, in row order and
/// not swizzled, as the table has them.
struct Embed {
  static constexpr bool kHasProducts = false;

  static constexpr TERRAZZO_GROUP_FN SlotPlan slots(const Instruction& instruction,
                                                    const StepParams&) {
    return {instruction.args.embed.panels, 1};
  }

  /// The row's token: given, or sampled by the previous step.
  static TERRAZZO_GROUP_FN uint32_t token_of(const StepParams& params, uint32_t row) {
    const int32_t token = params.tables.rows[row].token;
    if (token >= 0) {
      return static_cast<uint32_t>(token);
    }
    const auto* const sampled =
        reinterpret_cast<const SampledToken*>(params.address(params.gpu, Buffer::kSampled, 0));
    return static_cast<uint32_t>(sampled[-(token + 1)].token);
  }

  template <class M>
  static TERRAZZO_GROUP_FN void load(Loader<M>& loader) {
    const EmbedArgs& args = loader.instruction().args.embed;
    const StepParams& params = loader.params;
    const uint64_t panels = params.shape.hidden_panels();
    loader.wait_all();
    for (uint32_t panel = args.first_panel; panel < args.first_panel + args.panels; ++panel) {
      const auto slot = loader.fill(args.rows * kRowBytes);
      loader.for_each_lane(args.rows, [&](uint32_t row) TERRAZZO_LAMBDA {
        const uint64_t token = token_of(params, args.row_block * kRowBlock + row);
        const bf16* const source = params.model.embedding + (token * panels + panel) * kPanelCols;
        loader.copy_from_lane(slot, row * kRowBytes, reinterpret_cast<const std::byte*>(source),
                              kRowBytes);
      });
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void consume(Consumer<M>& consumer) {
    const EmbedArgs& args = consumer.instruction().args.embed;
    const RowSpan span = consumer_rows(consumer.instruction(), args.rows, consumer.index());
    for (uint32_t panel = 0; panel < args.panels; ++panel) {
      const auto slot = consumer.use();
      typename M::Panel values;
      load_plain_rows(values, slot, span.begin, span.count);
      consumer.release(slot);
      if (span.count != 0) {
        publish_residual_panel(consumer, values, span.count);
      }
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store(Storer<M>& storer) {
    const EmbedArgs& args = storer.instruction().args.embed;
    const RowSpan span = consumer_rows(storer.instruction(), args.rows, storer.index());
    const StepParams& params = storer.params;
    store_residual_panels(storer, Buffer::kX, Buffer::kSumSqX, args.row_block, args.first_panel,
                          args.panels, span, params.gpu, params.gpu + 1);
  }
};

}  // namespace terrazzo
