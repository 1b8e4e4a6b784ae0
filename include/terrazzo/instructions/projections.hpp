// The projections of a layer after attention: o, gate and up, down, and the sums of partial
// results.
#pragma once

#include "terrazzo/instructions/residual_rows.hpp"

namespace terrazzo {

/// x_out = x_in + a W, with sums of squares, to all GPUs. o_proj_residual, and down_residual on one
/// GPU.
template <Matrix kMatrix>
struct ProjectResidual {
  static constexpr bool kIsO = kMatrix == Matrix::kO;
  static constexpr Buffer kInput = kIsO ? Buffer::kAttention : Buffer::kAct;
  static constexpr Buffer kResidual = kIsO ? Buffer::kX : Buffer::kX1;
  static constexpr Buffer kOutput = kIsO ? Buffer::kX1 : Buffer::kX;
  static constexpr Buffer kOutputSums = kIsO ? Buffer::kSumSqX1 : Buffer::kSumSqX;

  static TERRAZZO_GROUP_FN GemmInput input(const StepParams& params, const GemmArgs& args,
                                           uint32_t layer) {
    const uint32_t input_block = kIsO ? params.shape.owned_index(args.row_block) : args.row_block;
    return {kMatrix, layer, tile_address(params, params.gpu, kInput, input_block, args.k_panels, 0),
            kResidual};
  }

  template <class M, class Accumulator>
  static TERRAZZO_GROUP_FN void finish(Consumer<M>& consumer, const Accumulator& acc,
                                       RowSpan span) {
    const uint32_t panels = consumer.instruction().args.gemm.panels;
    TERRAZZO_UNROLL
    for (uint32_t p = 0; p < kPanelsPerColTile; ++p) {
      if (p < panels) {
        auto panel = take_panel(acc, p, span.count);
        const auto residual = consumer.use();
        add_tile(panel, residual, span.begin, span.count);
        consumer.release(residual);
        publish_residual_panel(consumer, panel, span.count);
      }
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store(Storer<M>& storer) {
    const GemmArgs& args = storer.instruction().args.gemm;
    const RowSpan span = consumer_rows(storer.instruction(), args.rows, storer.index());
    store_residual_panels(storer, kOutput, kOutputSums, args.row_block, args.first_panel,
                          args.panels, span, 0, storer.params.shape.world);
  }
};

using OProjResidual = ProjectResidual<Matrix::kO>;
using DownResidual = ProjectResidual<Matrix::kDown>;

/// silu(rstd * x1 Wg) * (rstd * x1 Wu): the weight's panels hold gate and up in runs of kPairRun.
struct GateUpSilu {
  static TERRAZZO_GROUP_FN GemmInput input(const StepParams& params, const GemmArgs& args,
                                           uint32_t layer) {
    return {Matrix::kGateUp, layer,
            tile_address(params, params.gpu, Buffer::kX1, args.row_block, args.k_panels, 0),
            Buffer::kSumSqX1};
  }

  template <class M, class Accumulator, class RowVector>
  static TERRAZZO_GROUP_FN void finish(Consumer<M>& consumer, Accumulator& acc, RowSpan span,
                                       const RowVector& factors) {
    const uint32_t panels = consumer.instruction().args.gemm.panels;
    scale_rows(acc, factors, span.count, panels);
    TERRAZZO_UNROLL
    for (uint32_t p = 0; p < kPanelsPerColTile / 2; ++p) {
      if (p < panels / 2) {
        publish_panel(consumer, take_gated_panel(acc, p, span.count), span.count);
      }
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store(Storer<M>& storer) {
    const GemmArgs& args = storer.instruction().args.gemm;
    const StepParams& params = storer.params;
    const RowSpan span = consumer_rows(storer.instruction(), args.rows, storer.index());
    store_panels(storer, params.gpu, Buffer::kAct, args.row_block, params.shape.act_panels(),
                 args.first_panel / 2, args.panels / 2, span);
  }
};

/// Block index in kPartials: [rank][owned block]. O and down use the buffer in turn: who writes a
/// block's sums of one has waited for rows that the owner made of its sums of the other.
TERRAZZO_GROUP_FN uint32_t partial_block(const StepParams& params, uint32_t rank,
                                         uint32_t row_block) {
  const uint32_t owned = ceil_div(params.limits.row_blocks(), params.shape.world);
  return rank * owned + params.shape.owned_index(row_block);
}

/// This GPU's share of a W, to the rows' owner: down_partial and, where O is sharded, o_partial.
struct ProjectPartial {
  static TERRAZZO_GROUP_FN GemmInput input(Matrix matrix, const StepParams& params,
                                           const GemmArgs& args, uint32_t layer) {
    const Buffer buffer = matrix == Matrix::kO ? Buffer::kAttention : Buffer::kAct;
    return {matrix, layer,
            tile_address(params, params.gpu, buffer, args.row_block, args.k_panels, 0), buffer};
  }

  template <class M, class Accumulator>
  static TERRAZZO_GROUP_FN void finish(Consumer<M>& consumer, const Accumulator& acc,
                                       RowSpan span) {
    const uint32_t panels = consumer.instruction().args.gemm.panels;
    TERRAZZO_UNROLL
    for (uint32_t p = 0; p < kPanelsPerColTile; ++p) {
      if (p < panels) {
        publish_panel(consumer, take_panel(acc, p, span.count), span.count);
      }
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store(Storer<M>& storer) {
    const GemmArgs& args = storer.instruction().args.gemm;
    const StepParams& params = storer.params;
    const RowSpan span = consumer_rows(storer.instruction(), args.rows, storer.index());
    store_panels(storer, params.shape.owner(args.row_block), Buffer::kPartials,
                 partial_block(params, params.gpu, args.row_block), params.shape.hidden_panels(),
                 args.first_panel, args.panels, span);
  }
};

/// x_out = x_in + the sum of all ranks' partials, in fp32 and in rank order, to all GPUs:
/// reduce_residual for down's, reduce_o for O's.
struct ReducePartials {
  static constexpr bool kHasProducts = false;

  static constexpr TERRAZZO_GROUP_FN SlotPlan slots(const Instruction& instruction,
                                                    const StepParams& params) {
    return {instruction.args.reduce.panels * (1 + params.shape.world), 1};
  }

  template <class M>
  static TERRAZZO_GROUP_FN void load(Loader<M>& loader) {
    const ReduceArgs& args = loader.instruction().args.reduce;
    const StepParams& params = loader.params;
    const uint32_t hidden = params.shape.hidden_panels();
    const uint32_t bytes = args.rows * kRowBytes;
    const Buffer input = loader.instruction().opcode == Opcode::kReduceO ? Buffer::kX : Buffer::kX1;
    loader.wait_all();
    for (uint32_t p = args.first_panel; p < args.first_panel + args.panels; ++p) {
      const auto residual = loader.fill(bytes);
      loader.copy(residual, 0, tile_address(params, params.gpu, input, args.row_block, hidden, p),
                  bytes);
      for (uint32_t rank = 0; rank < params.shape.world; ++rank) {
        const uint32_t block = partial_block(params, rank, args.row_block);
        const auto partial = loader.fill(bytes);
        loader.copy(partial, 0,
                    tile_address(params, params.gpu, Buffer::kPartials, block, hidden, p), bytes);
      }
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void consume(Consumer<M>& consumer) {
    const ReduceArgs args = consumer.instruction().args.reduce;
    const RowSpan span = consumer_rows(consumer.instruction(), args.rows, consumer.index());
    for (uint32_t p = 0; p < args.panels; ++p) {
      typename M::Panel panel;
      clear(panel, span.count);
      for (uint32_t term = 0; term < 1 + consumer.params.shape.world; ++term) {
        const auto slot = consumer.use();
        add_tile(panel, slot, span.begin, span.count);
        consumer.release(slot);
      }
      if (span.count != 0) {
        publish_residual_panel(consumer, panel, span.count);
      }
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store(Storer<M>& storer) {
    const ReduceArgs& args = storer.instruction().args.reduce;
    const RowSpan span = consumer_rows(storer.instruction(), args.rows, storer.index());
    const bool is_o = storer.instruction().opcode == Opcode::kReduceO;
    store_residual_panels(storer, is_o ? Buffer::kX1 : Buffer::kX,
                          is_o ? Buffer::kSumSqX1 : Buffer::kSumSqX, args.row_block,
                          args.first_panel, args.panels, span, 0, storer.params.shape.world);
  }
};

}  // namespace terrazzo
