// qkv_rope_append: rstd * (x Wqkv), rotary embedding, queries to their buffers, keys and values to
// pages.
#pragma once

#include "terrazzo/instructions/residual_rows.hpp"

namespace terrazzo {

struct QkvRopeAppend {
  enum class Kind : uint32_t { kQuery, kKey, kValue };

  /// What a panel of the fused weight's output holds: KV head by KV head, its query heads, k, v.
  struct PanelPlace {
    Kind kind;
    uint32_t kv_head;  // local
    uint32_t head;     // of the group, for queries
    uint32_t panel;    // of the head
  };

  static constexpr TERRAZZO_GROUP_FN PanelPlace place_of(const ModelShape& shape, uint32_t panel) {
    const uint32_t in_group = panel % shape.group_panels();
    const uint32_t head = in_group / shape.head_panels();
    const Kind kind = head < shape.group()    ? Kind::kQuery
                      : head == shape.group() ? Kind::kKey
                                              : Kind::kValue;
    return {kind, panel / shape.group_panels(), head, in_group % shape.head_panels()};
  }

  static TERRAZZO_GROUP_FN GemmInput input(const StepParams& params, const GemmArgs& args,
                                           uint32_t layer) {
    return {Matrix::kQkv, layer,
            tile_address(params, params.gpu, Buffer::kX, args.row_block, args.k_panels, 0),
            Buffer::kSumSqX};
  }

  template <class M, class Accumulator, class RowVector>
  static TERRAZZO_GROUP_FN void finish(Consumer<M>& consumer, Accumulator& acc, RowSpan span,
                                       const RowVector& factors) {
    const StepParams& params = consumer.params;
    const ModelShape& shape = params.shape;
    const GemmArgs args = consumer.instruction().args.gemm;
    const RowInfo* const rows = params.tables.rows + args.row_block * kRowBlock + span.begin;
    scale_rows(acc, factors, span.count, args.panels);
    TERRAZZO_UNROLL
    for (uint32_t p = 0; p < kPanelsPerColTile; ++p) {
      if (p < args.panels) {
        const PanelPlace place = place_of(shape, args.first_panel + p);
        auto panel = take_panel(acc, p, span.count);
        if (place.kind != Kind::kValue) {
          rotate(panel, place.panel, shape.head_dim, span.count, [&](uint32_t row) TERRAZZO_LAMBDA {
            return params.model.rope + uint64_t{rows[row].position} * shape.head_dim;
          });
        }
        auto stage = consumer.stage();
        store_panel(stage, panel, span.count, [&](uint32_t row) TERRAZZO_LAMBDA {
          return target_row(place, rows[row], span.begin + row);
        });
        consumer.publish(stage);
      }
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store(Storer<M>& storer) {
    const StepParams& params = storer.params;
    const GemmArgs& args = storer.instruction().args.gemm;
    const RowSpan span = consumer_rows(storer.instruction(), args.rows, storer.index());
    if (span.count == 0) {
      return;
    }
    const uint32_t first_row = args.row_block * kRowBlock + span.begin;
    const RowInfo* const rows = params.tables.rows + first_row;
    const uint32_t layer = storer.layer();
    for (uint32_t p = 0; p < args.panels; ++p) {
      const PanelPlace place = place_of(params.shape, args.first_panel + p);
      const auto stage = storer.scatter_next(span.count, [&](uint32_t row) TERRAZZO_LAMBDA {
        std::byte* const tile =
            target_tile(params, place, rows[row], layer, args.row_block, first_row + row);
        return tile + target_row(place, rows[row], span.begin + row) * kRowBytes;
      });
      storer.release(stage);
    }
  }

 private:
  /// Row of the tile in which a row's piece of this panel lands.
  static TERRAZZO_GROUP_FN uint32_t target_row(const PanelPlace& place, const RowInfo& row,
                                               uint32_t block_row) {
    if (place.kind != Kind::kQuery) {
      return row.position % kPageTokens;
    }
    return (row.flags & kDecodeRow) != 0 ? place.head : block_row;
  }

  static TERRAZZO_GROUP_FN std::byte* target_tile(const StepParams& params, const PanelPlace& place,
                                                  const RowInfo& row, uint32_t layer,
                                                  uint32_t row_block, uint32_t step_row) {
    if (place.kind != Kind::kQuery) {
      return page_address(params, layer, row.append_page, place.kv_head,
                          place.kind == Kind::kKey ? 0 : 1, place.panel);
    }
    if ((row.flags & kDecodeRow) != 0) {
      return q_decode_address(params, step_row, place.kv_head, place.panel);
    }
    return q_prefill_address(params, row_block, place.kv_head * params.shape.group() + place.head,
                             place.panel);
  }
};

}  // namespace terrazzo
