// attend_prefill: causal attention of up to 128 consecutive tokens of a sequence, one query head.
#pragma once

#include "terrazzo/instructions/attention_pages.hpp"
#include "terrazzo/instructions/gemm_stream.hpp"
#include "terrazzo/vm/storer.hpp"

namespace terrazzo {

/// Streams the query tile (a slot a head panel), then pages in ascending order.
struct AttendPrefill {
  static constexpr TERRAZZO_GROUP_FN uint32_t last_tokens(const AttendPrefillArgs& args) {
    return args.position + args.rows;  // visible to the last row
  }
  static constexpr TERRAZZO_GROUP_FN uint32_t num_pages(const AttendPrefillArgs& args) {
    return ceil_div(last_tokens(args), kPageTokens);
  }

  static constexpr TERRAZZO_GROUP_FN SlotPlan slots(const Instruction& instruction,
                                              const StepParams& params) {
    const AttendPrefillArgs& args = instruction.args.attend_prefill;
    return {0, params.shape.head_panels() + num_pages(args) * slots_per_page(params.shape), 1};
  }

  /// Rows of the block that this consumer owns: those of the unit in its half.
  static constexpr TERRAZZO_GROUP_FN RowSpan rows_of(const AttendPrefillArgs& args, uint32_t consumer) {
    const uint32_t half_begin = consumer * kHalfRows;
    const uint32_t half_end = half_begin + kHalfRows;
    const uint32_t end = args.row_begin + args.rows;
    const uint32_t first = args.row_begin > half_begin ? args.row_begin : half_begin;
    const uint32_t last = end < half_end ? end : half_end;
    return {first, last > first ? last - first : 0};
  }

  template <class M>
  static TERRAZZO_GROUP_FN void load(Loader<M>& loader) {
    const AttendPrefillArgs& args = loader.instruction().args.attend_prefill;
    const StepParams& params = loader.params;
    loader.wait_all();
    for (uint32_t panel = 0; panel < params.shape.head_panels(); ++panel) {
      const auto slot = loader.fill(args.rows * kRowBytes);
      const std::byte* const tile =
          q_prefill_address(params, args.row_block, args.q_head, panel);
      loader.copy(slot, args.row_begin * kRowBytes, tile + args.row_begin * kRowBytes,
                  args.rows * kRowBytes);
    }
    const uint32_t tokens = last_tokens(args);
    for (uint32_t page = 0; page < num_pages(args); ++page) {
      load_page(loader, params.tables.page_ids[args.page_table_offset + page], args.kv_head,
                page_tokens(tokens, page));
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void consume(Consumer<M>& consumer) {
    const AttendPrefillArgs args = consumer.instruction().args.attend_prefill;
    const ModelShape& shape = consumer.params.shape;
    const RowSpan span = rows_of(args, consumer.index());
    typename M::Queries queries;
    for (uint32_t panel = 0; panel < shape.head_panels(); ++panel) {
      const auto slot = consumer.use();
      load_queries(queries, panel, slot, 0, span.begin, span.count);
      consumer.release(slot);
    }
    typename M::AttentionTile total;
    typename M::AttentionTile part;
    clear(total, span.count, shape.head_dim);
    clear(part, span.count, shape.head_dim);
    const uint32_t first_position = args.position + span.begin - args.row_begin;
    const uint32_t pages_per_split = shape.split_tokens / kPageTokens;
    const uint32_t pages = num_pages(args);
    for (uint32_t page = 0; page < pages; ++page) {
      use_page(consumer, [&](const auto& keys, const auto& values, uint32_t value_offset) {
        attend_page(
            part, queries, {keys, 0}, {values, value_offset}, span.count, shape.head_panels(),
            [&](uint32_t row) { return page_tokens(first_position + row + 1, page); },
            attention_scale_log2(shape));
      });
      if ((page + 1) % pages_per_split == 0 || page + 1 == pages) {
        fold(total, part, span.count, shape.head_dim);
        clear(part, span.count, shape.head_dim);
      }
    }
    for (uint32_t panel = 0; panel < shape.head_panels() && span.count != 0; ++panel) {
      const auto values = take_attention(total, panel, span.count, shape.head_dim);
      auto stage = consumer.stage();
      store_panel(stage, values, span.count, [&](uint32_t row) { return span.begin + row; });
      consumer.publish(stage);
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store(Storer<M>& storer) {
    const AttendPrefillArgs& args = storer.instruction().args.attend_prefill;
    const StepParams& params = storer.params;
    const RowSpan span = rows_of(args, storer.index());
    const uint32_t head = params.gpu * params.shape.local_heads() + args.q_head;
    for (uint32_t panel = 0; panel < params.shape.head_panels() && span.count != 0; ++panel) {
      const auto stage = storer.take();
      storer.store(attention_row_address(params, args.row_block * kRowBlock + span.begin, head,
                                         panel),
                   stage, 0, span.count * kRowBytes);
      storer.release(stage);
    }
  }
};

}  // namespace terrazzo
