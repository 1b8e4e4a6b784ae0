// attend_decode: one query token each of up to 16 sequences, all query heads of one KV head.
#pragma once

#include "terrazzo/instructions/attention_pages.hpp"
#include "terrazzo/vm/storer.hpp"

namespace terrazzo {

inline constexpr uint32_t kPartialRowsPerStage = 8;  // fp32 results of a head: at most 528 bytes

/// The consumers take the two halves of the rows; rows i and half + i are streamed together, page by page:
/// their queries (a slot each), then their pages in ascending order.
struct AttendDecode {
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
  static TERRAZZO_GROUP_FN PageRange pages_of(const StepParams& params, const AttendDecodeArgs& args,
                                        uint32_t row) {
    const uint32_t pages_per_split = params.shape.split_tokens / kPageTokens;
    const uint32_t pages = ceil_div(context_of(params, row), kPageTokens);
    const uint32_t begin = args.split_begin * pages_per_split;
    const uint32_t end = begin + args.num_splits * pages_per_split;
    return {begin < pages ? begin : pages, end < pages ? end : pages};
  }

  static TERRAZZO_GROUP_FN SlotPlan slots(const Instruction& instruction, const StepParams& params) {
    const AttendDecodeArgs& args = instruction.args.attend_decode;
    uint32_t stream = args.rows;
    for (uint32_t i = 0; i < args.rows; ++i) {
      const PageRange pages = pages_of(params, args, args.row + i);
      stream += (pages.end - pages.begin) * slots_per_page(params.shape);
    }
    return {0, stream, 1};
  }

  /// Walks the stream: queries(row index, consumer), then page(row index, consumer, page).
  template <class OnQueries, class OnPage, class OnPairEnd>
  static TERRAZZO_GROUP_FN void walk(const StepParams& params, const AttendDecodeArgs& args,
                               OnQueries on_queries, OnPage on_page, OnPairEnd on_pair_end) {
    const uint32_t half = half_rows(args);
    for (uint32_t i = 0; i < half; ++i) {
      const uint32_t members = half + i < args.rows ? 2 : 1;
      PageRange pages[2];
      for (uint32_t c = 0; c < members; ++c) {
        pages[c] = pages_of(params, args, args.row + c * half + i);
        on_queries(c * half + i, c);
      }
      const uint32_t begin = pages[0].begin;
      uint32_t end = pages[0].end;
      if (members == 2 && pages[1].end > end) {
        end = pages[1].end;
      }
      for (uint32_t page = begin; page < end; ++page) {
        for (uint32_t c = 0; c < members; ++c) {
          if (page < pages[c].end) {
            on_page(c * half + i, c, page);
          }
        }
      }
      on_pair_end(i);
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void load(Loader<M>& loader) {
    const AttendDecodeArgs& args = loader.instruction().args.attend_decode;
    const StepParams& params = loader.params;
    const ModelShape& shape = params.shape;
    const uint32_t head_bytes = shape.padded_group() * kRowBytes;
    loader.wait_all();
    walk(
        params, args,
        [&](uint32_t i, uint32_t) {
          const auto slot = loader.fill(shape.head_panels() * shape.group() * kRowBytes);
          for (uint32_t panel = 0; panel < shape.head_panels(); ++panel) {
            loader.copy(slot, panel * head_bytes,
                        q_decode_address(params, args.row + i, args.kv_head, panel),
                        shape.group() * kRowBytes);
          }
        },
        [&](uint32_t i, uint32_t, uint32_t page) {
          const RowInfo& row = params.tables.rows[args.row + i];
          load_page(loader, params.tables.page_ids[row.page_table_offset + page], args.kv_head,
                    page_tokens(context_of(params, args.row + i), page));
        },
        [](uint32_t) {});
  }

  template <class M>
  static TERRAZZO_GROUP_FN void consume(Consumer<M>& consumer) {
    const AttendDecodeArgs args = consumer.instruction().args.attend_decode;
    const StepParams& params = consumer.params;
    const ModelShape& shape = params.shape;
    const bool partial = (consumer.instruction().flags & kPartial) != 0;
    const uint32_t group = shape.group();
    const uint32_t pages_per_split = shape.split_tokens / kPageTokens;
    typename M::Queries queries;
    typename M::AttentionTile total;
    typename M::AttentionTile part;
    const auto end_split = [&] {
      if (partial) {
        publish_partial<M>(consumer, part);
      } else {
        fold(total, part, group, shape.head_dim);
      }
      clear(part, group, shape.head_dim);
    };
    walk(
        params, args,
        [&](uint32_t, uint32_t c) {
          const auto slot = consumer.use();
          if (c == consumer.index()) {
            for (uint32_t panel = 0; panel < shape.head_panels(); ++panel) {
              load_queries(queries, panel, slot, panel * shape.padded_group() * kRowBytes, 0, group);
            }
            clear(total, group, shape.head_dim);
            clear(part, group, shape.head_dim);
          }
          consumer.release(slot);
        },
        [&](uint32_t i, uint32_t c, uint32_t page) {
          if (c != consumer.index()) {
            pass_page(consumer);
            return;
          }
          const uint32_t tokens = page_tokens(context_of(params, args.row + i), page);
          use_page(consumer, [&](const auto& keys, const auto& values, uint32_t value_offset) {
            attend_page(
                part, queries, {keys, 0}, {values, value_offset}, group, shape.head_panels(),
                [&](uint32_t) { return tokens; }, attention_scale_log2(shape));
          });
          if ((page + 1) % pages_per_split == 0 ||
              page + 1 == pages_of(params, args, args.row + i).end) {
            end_split();
          }
        },
        [&](uint32_t i) {
          const uint32_t row = consumer.index() * half_rows(args) + i;
          if (!partial && row < args.rows) {
            publish_row<M>(consumer, total, args.row + row);
          }
        });
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store(Storer<M>& storer) {
    const AttendDecodeArgs& args = storer.instruction().args.attend_decode;
    const StepParams& params = storer.params;
    const uint32_t first = storer.index() * half_rows(args);
    const uint32_t last =
        storer.index() == 0 ? half_rows(args) : args.rows;
    for (uint32_t i = first; i < last; ++i) {
      if ((storer.instruction().flags & kPartial) != 0) {
        store_partials(storer, args, i);
      } else {
        store_row(storer, params.gpu * params.shape.local_kv_heads() + args.kv_head, args.row + i);
      }
    }
  }

  /// The finished row: a stage a head panel, one 128-byte row a query head.
  template <class M>
  static TERRAZZO_GROUP_FN void publish_row(Consumer<M>& consumer,
                                      const typename M::AttentionTile& total, uint32_t row) {
    const ModelShape& shape = consumer.params.shape;
    for (uint32_t panel = 0; panel < shape.head_panels(); ++panel) {
      const auto values = take_attention(total, panel, shape.group(), shape.head_dim);
      auto stage = consumer.stage();
      store_panel(stage, values, shape.group(), [&](uint32_t) { return row; });
      consumer.publish(stage);
    }
  }

  /// `kv_head` is global.
  template <class M>
  static TERRAZZO_GROUP_FN void store_row(Storer<M>& storer, uint32_t kv_head, uint32_t row) {
    const ModelShape& shape = storer.params.shape;
    for (uint32_t panel = 0; panel < shape.head_panels(); ++panel) {
      const auto stage = storer.take();
      storer.scatter_rows(stage, 0, shape.group(), [&](uint32_t head) {
        return attention_row_address(storer.params, row, kv_head * shape.group() + head, panel);
      });
      storer.release(stage);
    }
  }

  static constexpr TERRAZZO_GROUP_FN uint32_t partial_rows(const ModelShape& shape, uint32_t first) {
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
  template <class M>
  static TERRAZZO_GROUP_FN void publish_partial(Consumer<M>& consumer,
                                          const typename M::AttentionTile& part) {
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
    const uint32_t splits =
        ceil_div(pages.end - pages.begin, shape.split_tokens / kPageTokens);
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
