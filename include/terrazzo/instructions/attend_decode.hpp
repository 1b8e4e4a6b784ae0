// attend_decode: one query token each of up to 16 sequences, all query heads of one KV head.
#pragma once

#include "terrazzo/instructions/attention_pages.hpp"
#include "terrazzo/vm/storer.hpp"

namespace terrazzo {

inline constexpr uint32_t kPartialRowsPerStage = 8;  // fp32 results of a head: at most 528 bytes

/// The consumers take the two halves of the rows; rows i and half + i are streamed together: their
/// queries (a slot each), then their pages in ascending order, in turns of a page of each while
/// both have some.
struct AttendDecode {
  static constexpr bool kHasProducts = false;

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
    return {args.rows + args.pages * slots_per_page(params.shape), 1};
  }

  /// Pages of row `i` of the instruction; none if it has no such row.
  static TERRAZZO_GROUP_FN PageRange pages_of_index(const StepParams& params,
                                                    const AttendDecodeArgs& args, uint32_t i) {
    return i < args.rows ? pages_of(params, args, args.row + i) : PageRange{0, 0};
  }

  /// A row's pages as the loader needs them; a row past the last has none.
  struct RowPages {
    const uint32_t* ids;
    uint32_t count;
    uint32_t tokens;  // in these pages; more where further ones follow

    TERRAZZO_GROUP_FN RowPages(const StepParams& params, const AttendDecodeArgs& args, uint32_t i) {
      const PageRange pages = pages_of_index(params, args, i);
      count = pages.end - pages.begin;
      tokens = count == 0 ? 0 : context_of(params, args.row + i) - pages.begin * kPageTokens;
      ids = count == 0 ? nullptr
                       : params.tables.page_ids +
                             params.tables.rows[args.row + i].page_table_offset + pages.begin;
    }

    TERRAZZO_GROUP_FN uint32_t num_whole() const {
      return tokens / kPageTokens < count ? tokens / kPageTokens : count;
    }
    /// Those to which this step does not append.
    TERRAZZO_GROUP_FN uint32_t num_settled() const {
      return count == 0 || (tokens - 1) / kPageTokens >= count ? count : count - 1;
    }
  };

  /// Pages of earlier steps may be on their way before this step's queries exist: no more than fit
  /// into the ring with two queries.
  static constexpr uint32_t kTurnsAhead = 2;
  static_assert(kNumConsumers + kTurnsAhead * kNumConsumers * 2 <= kNumSlots);

  template <class M>
  static TERRAZZO_GROUP_FN void load(Loader<M>& loader) {
    const AttendDecodeArgs args = loader.instruction().args.attend_decode;
    const StepParams& params = loader.params;
    const uint32_t slots = args.rows + args.pages * slots_per_page(params.shape);
    loader.by_one_lane(slots, [&](auto& stream) TERRAZZO_LAMBDA {
      const uint32_t half = half_rows(args);
      bool waited = !loader.would_block_from_lane(0);
      if (waited) {
        loader.wait_all_from_lane();
      }
      for (uint32_t i = 0; i < half; ++i) {
        const bool paired = half + i < args.rows;
        const RowPages first(params, args, i);
        const RowPages second(params, args, paired ? half + i : args.rows);
        const uint32_t query_bytes = params.shape.head_panels() * params.shape.group() * kRowBytes;
        const auto first_slot = stream.fill(query_bytes);
        const auto second_slot = paired ? stream.fill(query_bytes) : first_slot;
        const auto load_queries = [&]() TERRAZZO_LAMBDA {
          copy_queries(loader, stream, args, i, first_slot);
          if (paired) {
            copy_queries(loader, stream, args, half + i, second_slot);
          }
        };
        uint32_t turn = 0;
        if (!waited) {
          const uint32_t settled = least(first.num_settled(), second.num_settled());
          turn = least(settled, kTurnsAhead);
          stream_turns(loader, stream, args.kv_head, first, second, 0, turn);
          loader.wait_all_from_lane();
          waited = true;
        }
        load_queries();
        const uint32_t whole_turns = least(first.num_whole(), second.num_whole());
        stream_turns(loader, stream, args.kv_head, first, second, turn, whole_turns);
        // The rest page by page: parts of pages, and pages that only one of the rows has.
        const uint32_t common = least(first.count, second.count);
        const RowPages& longer = first.count > second.count ? first : second;
        for (turn = whole_turns; turn < longer.count; ++turn) {
          if (turn < common) {
            stream_one(loader, stream, args.kv_head, first, turn);
            stream_one(loader, stream, args.kv_head, second, turn);
          } else {
            stream_one(loader, stream, args.kv_head, longer, turn);
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
        store_row(storer, params.shape.first_attention_kv_head(params.gpu) + args.kv_head,
                  args.row + i);
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

  /// `kv_head` is that of the attention buffer.
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

  /// Address of one head's partial result in a GPU's scratch.
  static TERRAZZO_GROUP_FN std::byte* partial_address(const StepParams& params, uint32_t gpu,
                                                      uint32_t slot, uint32_t head) {
    const uint64_t index = uint64_t{slot} * params.shape.padded_group() + head;
    return params.address(gpu, Buffer::kSplits,
                          index * params.shape.partial_elems() * sizeof(float));
  }

 private:
  static constexpr TERRAZZO_GROUP_FN uint32_t least(uint32_t a, uint32_t b) {
    return a < b ? a : b;
  }

  template <class M, class Stream>
  static TERRAZZO_GROUP_FN void copy_queries(Loader<M>& loader, Stream& stream,
                                             const AttendDecodeArgs& args, uint32_t i,
                                             const typename M::Slot& slot) {
    const ModelShape& shape = loader.params.shape;
    for (uint32_t panel = 0; panel < shape.head_panels(); ++panel) {
      stream.copy(slot, panel * shape.padded_group() * kRowBytes,
                  q_decode_address(loader.params, args.row + i, args.kv_head, panel),
                  shape.group() * kRowBytes);
    }
  }

  /// Whole pages [begin, end) of both rows. The next pages are looked up while these wait for room.
  template <class M, class Stream>
  static TERRAZZO_GROUP_FN void stream_turns(Loader<M>& loader, Stream& stream, uint32_t kv_head,
                                             const RowPages& first, const RowPages& second,
                                             uint32_t begin, uint32_t end) {
    if (begin >= end) {
      return;
    }
    const std::byte* const pages = page_address(loader.params, loader.layer(), 0, kv_head, 0, 0);
    const uint64_t stride =
        uint64_t{loader.params.shape.local_kv_heads()} * loader.params.shape.page_bytes();
    uint32_t first_id = first.ids[begin];
    uint32_t second_id = second.ids[begin];
    for (uint32_t turn = begin; turn < end; ++turn) {
      const std::byte* const a = pages + first_id * stride;
      const std::byte* const b = pages + second_id * stride;
      const uint32_t next = turn + 1 < end ? turn + 1 : turn;
      first_id = first.ids[next];
      second_id = second.ids[next];
      for_head_panels<M>(loader.params.shape, [&](auto panels) TERRAZZO_LAMBDA {
        if constexpr (decltype(panels)::value == 1) {
          stream.fill({a, b}, {kSlotBytes, kSlotBytes});
        } else {
          stream.fill({a, a + kSlotBytes, b, b + kSlotBytes},
                      {kSlotBytes, kSlotBytes, kSlotBytes, kSlotBytes});
        }
      });
    }
  }

  template <class M, class Stream>
  static TERRAZZO_GROUP_FN void stream_one(Loader<M>& loader, Stream& stream, uint32_t kv_head,
                                           const RowPages& row, uint32_t index) {
    stream_page(loader, stream, row.ids[index], kv_head, page_tokens(row.tokens, index));
  }

  /// The next page of this consumer's row: in turns with one of the other's, which it gives back.
  template <class M, uint32_t kPanels>
  static TERRAZZO_GROUP_FN PageSlots<M> take_page(Consumer<M>& consumer, bool in_turns) {
    typename M::Slot own[kPanels];
    if (in_turns) {
      typename M::Slot both[kNumConsumers * kPanels];
      typename M::Slot other[kPanels];
      consumer.use_run(both);
      const bool is_first = consumer.index() == 0;
      TERRAZZO_UNROLL
      for (uint32_t i = 0; i < kPanels; ++i) {
        own[i] = is_first ? both[i] : both[kPanels + i];
        other[i] = is_first ? both[kPanels + i] : both[i];
      }
      consumer.release_run(other);
    } else {
      consumer.use_run(own);
    }
    return {own[0], own[kPanels - 1], kPanels == 1 ? kHalfPanelBytes : 0};
  }

  /// kGroups: query heads in eights.
  template <class M, uint32_t kPanels, uint32_t kGroups>
  static TERRAZZO_GROUP_FN void consume_tiles(Consumer<M>& consumer) {
    // At head dimension 64 keys and values share a slot.
    constexpr bool kKeysGoFirst = kPanels == 2 && M::kScoresNeedNoKeys;
    const AttendDecodeArgs args = consumer.instruction().args.attend_decode;
    const StepParams& params = consumer.params;
    const ModelShape& shape = params.shape;
    const bool partial = (consumer.instruction().flags & kPartial) != 0;
    const uint32_t group = shape.group();
    const uint32_t pages_per_split = shape.split_tokens / kPageTokens;
    const uint32_t half = half_rows(args);
    auto queries = consumer.template decode_queries<kPanels, kGroups>();
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
          TERRAZZO_UNROLL
          for (uint32_t panel = 0; panel < kPanels; ++panel) {
            load_queries(queries, panel, slot, panel * shape.padded_group() * kRowBytes, 0, group);
          }
        }
        consumer.release(slot);
      }
      clear(total, group, shape.head_dim);
      const uint32_t turns = least(pages.end - pages.begin, others.end - others.begin);
      for (uint32_t begin = pages.begin; begin < pages.end;) {
        const uint32_t boundary = (begin / pages_per_split + 1) * pages_per_split;
        const uint32_t end = boundary < pages.end ? boundary : pages.end;
        clear(part, group, shape.head_dim);
        attend_pages(
            part, queries, begin, end, group, shape,
            [&](uint32_t page) TERRAZZO_LAMBDA {
              return take_page<M, kPanels>(consumer, page - pages.begin < turns);
            },
            [&](const PageSlots<M>& page) TERRAZZO_LAMBDA {
              if constexpr (kKeysGoFirst) {
                consumer.release(page.keys);
              }
            },
            [&](const PageSlots<M>& page) TERRAZZO_LAMBDA {
              if constexpr (kPanels == 2 && !kKeysGoFirst) {
                consumer.release(page.keys);
              }
              consumer.release(page.values);
            },
            [&](uint32_t page, uint32_t) TERRAZZO_LAMBDA { return page_tokens(context, page); });
        if (partial) {
          publish_partial(consumer, part);
        } else {
          fold(total, part, group, shape.head_dim);
        }
        begin = end;
      }
      for (uint32_t page = others.begin + turns; page < others.end; ++page) {
        typename M::Slot slots[kPanels];
        consumer.use_run(slots);
        consumer.release_run(slots);
      }
      if (!partial && row < args.rows) {
        publish_row(consumer, total, args.row + row);
      }
    }
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
    const uint32_t target = shape.attention_gpu(params.gpu, (args.row + i) / kRowBlock);
    for (uint32_t split = 0; split < splits; ++split) {
      const uint32_t slot = args.partial_slot + i * args.num_splits + split;
      for (uint32_t first = 0; first < shape.group(); first += kPartialRowsPerStage) {
        const auto stage = storer.take();
        const auto bytes = static_cast<uint32_t>(partial_rows(shape, first) *
                                                 shape.partial_elems() * sizeof(float));
        storer.store(partial_address(params, target, slot, first), stage, 0, bytes);
        storer.release(stage);
      }
    }
  }
};

}  // namespace terrazzo
