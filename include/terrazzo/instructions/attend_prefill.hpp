// attend_prefill: causal attention of up to 128 consecutive tokens of a sequence, one query head.
#pragma once

#include "terrazzo/instructions/attention_pages.hpp"
#include "terrazzo/instructions/gemm_stream.hpp"
#include "terrazzo/vm/storer.hpp"

namespace terrazzo {

/// Streams the query tile, a slot a head panel, which consumers keep in registers; then pages in
/// ascending order.
struct AttendPrefill {
  static constexpr bool kHasProducts = true;

  static constexpr TERRAZZO_GROUP_FN uint32_t last_tokens(const AttendPrefillArgs& args) {
    return args.position + args.rows;  // visible to the last row
  }
  static constexpr TERRAZZO_GROUP_FN uint32_t num_pages(const AttendPrefillArgs& args) {
    return ceil_div(last_tokens(args), kPageTokens);
  }

  static constexpr TERRAZZO_GROUP_FN SlotPlan slots(const Instruction& instruction,
                                                    const StepParams& params) {
    const AttendPrefillArgs& args = instruction.args.attend_prefill;
    return {params.shape.head_panels() + num_pages(args) * slots_per_page(params.shape), 1};
  }

  /// Rows of the block that this consumer owns: those of the unit in its half.
  static constexpr TERRAZZO_GROUP_FN RowSpan rows_of(const AttendPrefillArgs& args,
                                                     uint32_t consumer) {
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
    const uint32_t panels = params.shape.head_panels();
    const uint32_t tokens = last_tokens(args);
    const uint32_t whole = tokens / kPageTokens;
    const uint32_t* const ids = params.tables.page_ids + args.page_table_offset;
    loader.wait_all();
    loader.by_one_lane(
        panels + whole * slots_per_page(params.shape), [&](auto& slots) TERRAZZO_LAMBDA {
          for (uint32_t panel = 0; panel < panels; ++panel) {
            const auto slot = slots.fill(args.rows * kRowBytes);
            slots.copy(slot, args.row_begin * kRowBytes,
                       q_prefill_address(params, args.row_block, args.q_head, panel) +
                           args.row_begin * kRowBytes,
                       args.rows * kRowBytes);
          }
          const std::byte* const pool = page_address(params, loader.layer(), 0, args.kv_head, 0, 0);
          const uint64_t stride =
              uint64_t{params.shape.local_kv_heads()} * params.shape.page_bytes();
          uint32_t id = ids[0];
          for (uint32_t page = 0; page < whole; ++page) {
            const std::byte* const source = pool + id * stride;
            id = ids[page + 1 < whole ? page + 1 : page];  // while the slots are waited for
            for (uint32_t part = 0; part < panels; ++part) {
              slots.fill({source + part * kSlotBytes}, {kSlotBytes});
            }
          }
        });
    if (tokens % kPageTokens != 0) {
      load_page_part(loader, ids[whole], args.kv_head, tokens % kPageTokens);
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void consume(Consumer<M>& consumer) {
    for_head_panels<M>(consumer.params.shape, [&](auto panels) TERRAZZO_LAMBDA {
      consume_panels<M, decltype(panels)::value>(consumer);
    });
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store(Storer<M>& storer) {
    const AttendPrefillArgs& args = storer.instruction().args.attend_prefill;
    const StepParams& params = storer.params;
    const RowSpan span = rows_of(args, storer.index());
    const uint32_t head =
        params.shape.first_attention_kv_head(params.gpu) * params.shape.group() + args.q_head;
    for (uint32_t panel = 0; panel < params.shape.head_panels() && span.count != 0; ++panel) {
      const auto stage = storer.take();
      storer.store(
          attention_row_address(params, args.row_block * kRowBlock + span.begin, head, panel),
          stage, span.begin % kHalfRows * kRowBytes, span.count * kRowBytes);
      storer.release(stage);
    }
  }

 private:
  // At head dimension 64 keys and values share a slot, at 128 values and the next keys follow each
  // other.

  template <class M, uint32_t kPanels>
  static TERRAZZO_GROUP_FN bool look(Consumer<M>& consumer, bool more) {
    if constexpr (kPanels == 2) {
      return more ? consumer.template look_at_run<2>() : consumer.template look_at_run<1>();
    }
    return !more || consumer.template look_at_run<1>();
  }

  /// The page of these keys, which become the next page's if there are more.
  template <class M, uint32_t kPanels>
  static TERRAZZO_GROUP_FN PageSlots<M> turn_page(Consumer<M>& consumer, typename M::Slot& keys,
                                                  bool more, bool there) {
    PageSlots<M> page{keys, keys, kPanels == 2 ? 0 : kHalfPanelBytes};
    if (kPanels == 2 && more) {
      typename M::Slot slots[2];
      consumer.use_run(slots, there);
      page.values = slots[0];
      keys = slots[1];
    } else if (kPanels == 2 || more) {
      typename M::Slot slot[1];
      consumer.use_run(slot, there);
      (kPanels == 2 ? page.values : keys) = slot[0];
    }
    return page;
  }

  template <class M, uint32_t kPanels>
  static TERRAZZO_GROUP_FN void consume_panels(Consumer<M>& consumer) {
    using Slot = typename M::Slot;
    constexpr bool kKeysGoFirst = kPanels == 2 && M::kScoresNeedNoKeys;
    const AttendPrefillArgs args = consumer.instruction().args.attend_prefill;
    const ModelShape& shape = consumer.params.shape;
    const RowSpan span = rows_of(args, consumer.index());
    auto queries = consumer.template prefill_queries<kPanels>();
    TERRAZZO_UNROLL
    for (uint32_t panel = 0; panel < kPanels; ++panel) {
      const auto slot = consumer.use();
      load_queries(queries, panel, slot, 0, span.begin, span.count);
      consumer.release(slot);
    }
    if (span.count == 0) {
      consumer.pass_rest();
      return;
    }
    const uint32_t first_position = args.position + span.begin - args.row_begin;
    const uint32_t pages = ceil_div(first_position + span.count, kPageTokens);
    const uint32_t whole_end = (first_position + 1) / kPageTokens;
    const uint32_t pages_per_split = shape.split_tokens / kPageTokens;
    typename M::template PrefillAttention<kPanels> part;
    typename M::template PrefillTotal<kPanels> total;
    uint32_t begin = 0;
    do {  // at least once: state that may stay undefined would hold registers in all operations
      const uint32_t end = begin + pages_per_split < pages ? begin + pages_per_split : pages;
      clear(part, span.count, shape.head_dim);
      attend_pages_ahead(
          part, queries, begin, end, whole_end, span.count, shape,
          [&]() TERRAZZO_LAMBDA { return consumer.use(); },
          [&](bool more) TERRAZZO_LAMBDA { return look<M, kPanels>(consumer, more); },
          [&](Slot& keys, bool more, bool there)
              TERRAZZO_LAMBDA { return turn_page<M, kPanels>(consumer, keys, more, there); },
          [&](const Slot& keys) TERRAZZO_LAMBDA {
            if constexpr (kKeysGoFirst) {
              consumer.release(keys);
            }
          },
          [&](const PageSlots<M>& page) TERRAZZO_LAMBDA {
            if constexpr (kPanels == 2 && !kKeysGoFirst) {
              consumer.release(page.keys);
            }
            consumer.release(page.values);
          },
          [&](uint32_t page, uint32_t row)
              TERRAZZO_LAMBDA { return page_tokens(first_position + row + 1, page); });
      if (begin != 0) {
        fold_back(part, total, span.count, shape.head_dim);
      }
      if (end < pages) {
        save(total, part, span.count, shape.head_dim);
      }
      begin = end;
    } while (begin < pages);
    consumer.pass_rest();  // pages later than all rows of this consumer
    TERRAZZO_UNROLL
    for (uint32_t panel = 0; panel < kPanels; ++panel) {
      const auto values = take_attention(part, panel, span.count, shape.head_dim);
      auto stage = consumer.stage();
      store_rows(stage, values, span.begin % kHalfRows, span.count);
      consumer.publish(stage);
    }
  }
};

}  // namespace terrazzo
