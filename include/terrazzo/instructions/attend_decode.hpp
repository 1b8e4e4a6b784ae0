// attend_decode: one query token each of up to 16 sequences, all query heads of one KV head.
#pragma once

#include "terrazzo/instructions/attention_pages.hpp"
#include "terrazzo/vm/storer.hpp"

namespace terrazzo {

inline constexpr uint32_t kPartialRowsPerStage = 8;  // fp32 results of a head: at most 528 bytes

/// The consumers take the two halves of the rows; rows i and half + i are streamed together, page
/// by page: their queries (a slot each), then their pages in ascending order. A pin without content
/// is the consumers' scratch.
struct AttendDecode {
  static constexpr bool kHasProducts = true;

  struct PageRange {
    uint32_t begin;
    uint32_t end;
  };

  static constexpr TERRAZZO_GROUP_FN uint32_t half_rows(const AttendDecodeArgs& args) {
    return ceil_div(args.rows, 2u);
  }

  static TERRAZZO_GROUP_FN uint32_t context_of(const StepParams& params, uint32_t row) {
    return params.tables.rows[row].position + 1;
  }

  /// Pages of a row that this instruction covers.
  static TERRAZZO_GROUP_FN PageRange pages_of(const StepParams& params,
                                              const AttendDecodeArgs& args, uint32_t row) {
    const uint32_t pages_per_split = params.shape.split_tokens / kPageTokens;
    const uint32_t pages = ceil_div(context_of(params, row), kPageTokens);
    const uint32_t begin = args.split_begin * pages_per_split;
    const uint32_t end = begin + args.num_splits * pages_per_split;
    return {begin < pages ? begin : pages, end < pages ? end : pages};
  }

  static TERRAZZO_GROUP_FN SlotPlan slots(const Instruction& instruction,
                                          const StepParams& params) {
    const AttendDecodeArgs& args = instruction.args.attend_decode;
    return {1, args.rows + args.pages * slots_per_page(params.shape), 1};
  }

  /// Pages of row `i` of the instruction; none if it has no such row.
  static TERRAZZO_GROUP_FN PageRange pages_of_index(const StepParams& params,
                                                    const AttendDecodeArgs& args, uint32_t i) {
    return i < args.rows ? pages_of(params, args, args.row + i) : PageRange{0, 0};
  }

  /// A row's pages as the loader needs them; a row past the last has none.
  struct RowPages {
    const uint32_t* ids;  // of page `begin` and on
    uint32_t begin;
    uint32_t count;
    uint32_t context;

    TERRAZZO_GROUP_FN RowPages(const StepParams& params, const AttendDecodeArgs& args, uint32_t i) {
      const PageRange pages = pages_of_index(params, args, i);
      begin = pages.begin;
      count = pages.end - pages.begin;
      context = count == 0 ? 0 : context_of(params, args.row + i);
      ids = count == 0 ? nullptr
                       : params.tables.page_ids +
                             params.tables.rows[args.row + i].page_table_offset + begin;
    }

    /// Whether this step appends to page `index` of these.
    TERRAZZO_GROUP_FN bool is_newest(uint32_t index) const {
      return (begin + index + 1) * kPageTokens >= context;
    }
  };

  /// Pages of earlier steps may be on their way before this step's queries exist: not the page that
  /// a row's newest token goes to, and no more than fit into the ring with the pin and two queries.
  static constexpr uint32_t kPagesAhead = 4;
  static_assert(1 + kNumConsumers + 2 * kPagesAhead <= kNumSlots);

  template <class M>
  static TERRAZZO_GROUP_FN void load(Loader<M>& loader) {
    const AttendDecodeArgs args = loader.instruction().args.attend_decode;
    const StepParams& params = loader.params;
    const ModelShape& shape = params.shape;
    loader.fill_pin(0);
    loader.template by_one_lane<true>(
        args.rows + args.pages * slots_per_page(shape), [&](auto& slots) TERRAZZO_LAMBDA {
          const uint32_t head_bytes = shape.padded_group() * kRowBytes;
          const uint32_t group_bytes = shape.group() * kRowBytes;
          const uint32_t half = half_rows(args);
          bool waited = false;
          for (uint32_t i = 0; i < half; ++i) {
            const bool paired = half + i < args.rows;
            const RowPages first(params, args, i);
            const RowPages second(params, args, paired ? half + i : args.rows);
            const uint32_t query_bytes = shape.head_panels() * group_bytes;
            const auto first_slot = slots.fill(query_bytes);
            const auto second_slot = paired ? slots.fill(query_bytes) : first_slot;
            const auto load_queries_of = [&](uint32_t row, const auto& slot) TERRAZZO_LAMBDA {
              for (uint32_t panel = 0; panel < shape.head_panels(); ++panel) {
                slots.copy(slot, panel * head_bytes,
                           q_decode_address(params, args.row + row, args.kv_head, panel),
                           group_bytes);
              }
            };
            const auto load_both = [&]() TERRAZZO_LAMBDA {
              load_queries_of(i, first_slot);
              if (paired) {
                load_queries_of(half + i, second_slot);
              }
            };
            if (i == 0 && !loader.would_block_from_lane(0)) {
              loader.wait_all_from_lane();
              waited = true;
            }
            if (waited) {
              load_both();
            }
            // In turn while both rows have pages, then the rest of the longer one.
            const uint32_t common = first.count < second.count ? first.count : second.count;
            const uint32_t pages = first.count + second.count;
            for (uint32_t page = 0; page <= pages; ++page) {
              const bool in_turn = page < 2 * common;
              const bool of_first = in_turn ? page % 2 == 0 : first.count > second.count;
              const RowPages& row = of_first ? first : second;
              const uint32_t index = in_turn ? page / 2 : page - common;
              if (!waited &&
                  (page == pages || page == kPagesAhead || row.is_newest(index))) {
                wait_beside_pages(loader, args.kv_head, first);
                waited = true;
                load_both();
              }
              if (page < pages) {
                stream_page(loader, slots, row.ids[index], args.kv_head,
                            page_tokens(row.context, row.begin + index));
              }
            }
          }
        });
  }

  template <class M>
  static TERRAZZO_GROUP_FN void consume(Consumer<M>& consumer) {
    const ModelShape& shape = consumer.params.shape;
    const bool narrow = shape.padded_group() == 8;
    for_head_panels<M>(shape, [&](auto panels) TERRAZZO_LAMBDA {
      constexpr uint32_t kPanels = decltype(panels)::value;
      narrow ? consume_tiles<M, kPanels, 1>(consumer) : consume_tiles<M, kPanels, 2>(consumer);
    });
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store(Storer<M>& storer) {
    const AttendDecodeArgs& args = storer.instruction().args.attend_decode;
    const StepParams& params = storer.params;
    const uint32_t first = storer.index() * half_rows(args);
    const uint32_t last = storer.index() == 0 ? half_rows(args) : args.rows;
    for (uint32_t i = first; i < last; ++i) {
      if ((storer.instruction().flags & kPartial) != 0) {
        store_partials(storer, args, i);
      } else {
        store_row(storer, params.gpu * params.shape.local_kv_heads() + args.kv_head, args.row + i);
      }
    }
  }

  /// The finished row: a stage a head panel, one 128-byte row a query head.
  template <class M, class Tile>
  static TERRAZZO_GROUP_FN void publish_row(Consumer<M>& consumer, const Tile& total,
                                            uint32_t row) {
    const ModelShape& shape = consumer.params.shape;
    for (uint32_t panel = 0; panel < shape.head_panels(); ++panel) {
      const auto values = take_attention(total, panel, shape.group(), shape.head_dim);
      auto stage = consumer.stage();
      store_panel(stage, values, shape.group(), [&](uint32_t) TERRAZZO_LAMBDA { return row; });
      consumer.publish(stage);
    }
  }

  /// `kv_head` is global.
  template <class M>
  static TERRAZZO_GROUP_FN void store_row(Storer<M>& storer, uint32_t kv_head, uint32_t row) {
    const ModelShape& shape = storer.params.shape;
    for (uint32_t panel = 0; panel < shape.head_panels(); ++panel) {
      const auto stage = storer.take();
      storer.scatter_rows(stage, 0, shape.group(), [&](uint32_t head) TERRAZZO_LAMBDA {
        return attention_row_address(storer.params, row, kv_head * shape.group() + head, panel);
      });
      storer.release(stage);
    }
  }

  static constexpr TERRAZZO_GROUP_FN uint32_t partial_rows(const ModelShape& shape,
                                                           uint32_t first) {
    const uint32_t left = shape.group() - first;
    return left < kPartialRowsPerStage ? left : kPartialRowsPerStage;
  }

  /// Address of one head's partial result in the scratch of the row's owner.
  static TERRAZZO_GROUP_FN std::byte* partial_address(const StepParams& params, uint32_t gpu,
                                                      uint32_t slot, uint32_t head) {
    const uint64_t index = uint64_t{slot} * params.shape.padded_group() + head;
    return params.address(gpu, Buffer::kSplits,
                          index * params.shape.partial_elems() * sizeof(float));
  }

 private:
  /// Waits; meanwhile a row's next pages go to L2.
  template <class M>
  static TERRAZZO_GROUP_FN void wait_beside_pages(Loader<M>& loader, uint32_t kv_head,
                                                  const RowPages& row) {
    constexpr uint32_t kMostPages = 8;
    for (uint32_t i = kPagesAhead; i < row.count && i < kMostPages; ++i) {
      loader.prefetch_from_lane(
          page_address(loader.params, loader.layer(), row.ids[i], kv_head, 0, 0),
          loader.params.shape.page_bytes());
    }
    loader.wait_all_from_lane();
  }

  /// kGroups: query heads in eights.
  template <class M, uint32_t kPanels, uint32_t kGroups>
  static TERRAZZO_GROUP_FN void consume_tiles(Consumer<M>& consumer) {
    const AttendDecodeArgs args = consumer.instruction().args.attend_decode;
    const StepParams& params = consumer.params;
    const ModelShape& shape = params.shape;
    const bool partial = (consumer.instruction().flags & kPartial) != 0;
    const uint32_t group = shape.group();
    const uint32_t pages_per_split = shape.split_tokens / kPageTokens;
    const uint32_t half = half_rows(args);
    auto queries = consumer.template decode_queries<kPanels, kGroups>(consumer.use_pin());
    typename M::template DecodeAttention<kPanels, kGroups> total;
    typename M::template DecodeAttention<kPanels, kGroups> part;
    for (uint32_t i = 0; i < half; ++i) {
      const uint32_t row = consumer.index() * half + i;
      const PageRange pages = pages_of_index(params, args, row);
      const uint32_t context = row < args.rows ? context_of(params, args.row + row) : 0;
      const PageRange others = pages_of_index(params, args, (1 - consumer.index()) * half + i);
      for (uint32_t c = 0; c < kNumConsumers && c * half + i < args.rows; ++c) {
        const auto slot = consumer.use();
        if (c == consumer.index()) {
          for (uint32_t panel = 0; panel < kPanels; ++panel) {
            load_queries(queries, panel, slot, panel * shape.padded_group() * kRowBytes, 0, group);
          }
        }
        consumer.release(slot);
      }
      clear(total, group, shape.head_dim);
      uint32_t passed = others.begin;
      const auto pass_until = [&](uint32_t page) TERRAZZO_LAMBDA {
        for (; passed < page && passed < others.end; ++passed) {
          pass_page(consumer);
        }
      };
      for (uint32_t begin = pages.begin; begin < pages.end;) {
        const uint32_t boundary = (begin / pages_per_split + 1) * pages_per_split;
        const uint32_t end = boundary < pages.end ? boundary : pages.end;
        clear(part, group, shape.head_dim);
        attend_pages(
            part, queries, begin, end, group, shape,
            [&](uint32_t page) TERRAZZO_LAMBDA {
              pass_until(page + consumer.index());  // consumer 0's page comes first
              return take_page(consumer);
            },
            [&](const PageSlots<M>& page) TERRAZZO_LAMBDA { give_back_page(consumer, page); },
            [&](uint32_t page, uint32_t) TERRAZZO_LAMBDA { return page_tokens(context, page); });
        if (partial) {
          publish_partial(consumer, part);
        } else {
          fold(total, part, group, shape.head_dim);
        }
        begin = end;
      }
      pass_until(others.end);
      if (!partial && row < args.rows) {
        publish_row(consumer, total, args.row + row);
      }
    }
    consumer.release_pins();
  }

  template <class M, class Tile>
  static TERRAZZO_GROUP_FN void publish_partial(Consumer<M>& consumer, const Tile& part) {
    const ModelShape& shape = consumer.params.shape;
    for (uint32_t first = 0; first < shape.group(); first += kPartialRowsPerStage) {
      auto stage = consumer.stage();
      store_partial(stage, part, first, partial_rows(shape, first), shape);
      consumer.publish(stage);
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store_partials(Storer<M>& storer, const AttendDecodeArgs& args,
                                               uint32_t i) {
    const StepParams& params = storer.params;
    const ModelShape& shape = params.shape;
    const PageRange pages = pages_of(params, args, args.row + i);
    const uint32_t splits = ceil_div(pages.end - pages.begin, shape.split_tokens / kPageTokens);
    const uint32_t owner = shape.owner((args.row + i) / kRowBlock);
    for (uint32_t split = 0; split < splits; ++split) {
      const uint32_t slot = args.partial_slot + i * args.num_splits + split;
      for (uint32_t first = 0; first < shape.group(); first += kPartialRowsPerStage) {
        const auto stage = storer.take();
        const auto bytes = static_cast<uint32_t>(partial_rows(shape, first) *
                                                 shape.partial_elems() * sizeof(float));
        storer.store(partial_address(params, owner, slot, first), stage, 0, bytes);
        storer.release(stage);
      }
    }
  }
};

}  // namespace terrazzo
