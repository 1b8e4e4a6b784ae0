// lm_head: logits of compact rows for a tile of this GPU's vocabulary; keeps the best token of each
// row.
#pragma once

#include "terrazzo/instructions/addresses.hpp"
#include "terrazzo/instructions/gemm_load.hpp"
#include "terrazzo/vm/storer.hpp"

namespace terrazzo {

/// Stages: the rows' candidates; then, if any of the consumer's rows has a logits slot, the logits
/// as rows of 32 fp32.
struct LmHead {
  static constexpr uint32_t kStageCols = kRowBytes / sizeof(float);
  static constexpr uint32_t kStagesPerPanel = kPanelCols / kStageCols;

  static TERRAZZO_GROUP_FN GemmInput input(const StepParams& params, const GemmArgs& args,
                                           uint32_t) {
    return {Matrix::kLmHead, 0,
            tile_address(params, params.gpu, Buffer::kCompact, args.row_block, args.k_panels, 0),
            Buffer::kCompact};
  }

  template <class M, class Accumulator>
  static TERRAZZO_GROUP_FN void finish(Consumer<M>& consumer, const Accumulator& acc,
                                       RowSpan span) {
    const StepParams& params = consumer.params;
    const ModelShape& shape = params.shape;
    const GemmArgs args = consumer.instruction().args.gemm;
    const LogitInfo* const infos = logit_infos(params, args, span);
    const uint32_t first_id = (params.gpu * shape.vocab_panels() + args.first_panel) * kPanelCols;
    auto stage = consumer.stage();
    find_candidates(stage, acc, span.count, args.panels * kPanelCols, first_id, shape.vocab, infos);
    consumer.publish(stage);
    if (!any_has_slot(infos, span.count)) {
      return;
    }
    for (uint32_t i = 0; i < args.panels * kStagesPerPanel; ++i) {
      auto logits = consumer.stage();
      store_plain_columns(logits, acc, i * kStageCols, span.count);
      consumer.publish(logits);
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store(Storer<M>& storer) {
    const StepParams& params = storer.params;
    const ModelShape& shape = params.shape;
    const GemmArgs& args = storer.instruction().args.gemm;
    const RowSpan span = consumer_rows(storer.instruction(), args.rows, storer.index());
    if (span.count == 0) {
      return;
    }
    const LogitInfo* const infos = logit_infos(params, args, span);
    const uint32_t owner = shape.owner(args.row_block);
    const uint32_t first_row = args.row_block * kRowBlock + span.begin;
    const auto stage = storer.take();
    storer.for_each_lane(span.count, [&](uint32_t i) TERRAZZO_LAMBDA {
      const uint64_t index =
          (uint64_t{first_row + i} * shape.world + params.gpu) * shape.vocab_tiles() +
          args.first_panel / kPanelsPerColTile;
      storer.store_from_lane(params.address(owner, Buffer::kCandidates, index * sizeof(Candidate)),
                             stage, static_cast<uint32_t>(i * sizeof(Candidate)),
                             sizeof(Candidate));
    });
    storer.release(stage);
    if (!any_has_slot(infos, span.count)) {
      return;
    }
    for (uint32_t piece = 0; piece < args.panels * kStagesPerPanel; ++piece) {
      const auto logits = storer.take();
      storer.for_each_lane(span.count, [&](uint32_t i) TERRAZZO_LAMBDA {
        if (infos[i].logits_slot == kNoLogits) {
          return;
        }
        const uint64_t panel =
            (uint64_t{infos[i].logits_slot} * shape.world + params.gpu) * shape.vocab_panels() +
            args.first_panel;
        const uint64_t index = panel * kStagesPerPanel + piece;
        storer.store_from_lane(params.address(owner, Buffer::kLogits, index * kRowBytes), logits,
                               i * kRowBytes, kRowBytes);
      });
      storer.release(logits);
    }
  }

 private:
  static TERRAZZO_GROUP_FN const LogitInfo* logit_infos(const StepParams& params,
                                                        const GemmArgs& args, RowSpan span) {
    return params.tables.logit_rows + args.row_block * kRowBlock + span.begin;
  }

  static TERRAZZO_GROUP_FN bool any_has_slot(const LogitInfo* infos, uint32_t rows) {
    bool any = false;  // no early way out: the loads run side by side
    for (uint32_t i = 0; i < rows; ++i) {
      any |= infos[i].logits_slot != kNoLogits;
    }
    return any;
  }
};

}  // namespace terrazzo
