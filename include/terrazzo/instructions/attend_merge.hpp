// attend_merge: folds the partial results of one row and KV head, in ascending order of the splits.
#pragma once

#include "terrazzo/instructions/attend_decode.hpp"

namespace terrazzo {

/// Streams chunks of 8 heads, each with all its splits; the consumers take alternate chunks.
struct AttendMerge {
  static constexpr bool kHasProducts = false;

  static constexpr TERRAZZO_GROUP_FN uint32_t num_chunks(const ModelShape& shape) {
    return ceil_div(shape.group(), kPartialRowsPerStage);
  }

  static constexpr TERRAZZO_GROUP_FN SlotPlan slots(const Instruction& instruction,
                                                    const StepParams& params) {
    return {num_chunks(params.shape) * instruction.args.attend_merge.num_splits, 1};
  }

  template <class M>
  static TERRAZZO_GROUP_FN void load(Loader<M>& loader) {
    const AttendMergeArgs& args = loader.instruction().args.attend_merge;
    const StepParams& params = loader.params;
    const ModelShape& shape = params.shape;
    loader.wait_all();
    for (uint32_t chunk = 0; chunk < num_chunks(shape); ++chunk) {
      const uint32_t first = chunk * kPartialRowsPerStage;
      const auto bytes = static_cast<uint32_t>(AttendDecode::partial_rows(shape, first) *
                                               shape.partial_elems() * sizeof(float));
      for (uint32_t split = 0; split < args.num_splits; ++split) {
        const auto slot = loader.fill(bytes);
        loader.copy(
            slot, 0,
            AttendDecode::partial_address(params, params.gpu, args.partial_slot + split, first),
            bytes);
      }
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
    const AttendMergeArgs& args = storer.instruction().args.attend_merge;
    const StepParams& params = storer.params;
    const ModelShape& shape = params.shape;
    for (uint32_t chunk = storer.index(); chunk < num_chunks(shape); chunk += kNumConsumers) {
      const uint32_t first = chunk * kPartialRowsPerStage;
      for (uint32_t panel = 0; panel < shape.head_panels(); ++panel) {
        const auto stage = storer.take();
        storer.scatter_rows(
            stage, 0, AttendDecode::partial_rows(shape, first), [&](uint32_t head) TERRAZZO_LAMBDA {
              return attention_row_address(params, args.row,
                                           args.kv_head * shape.group() + first + head, panel);
            });
        storer.release(stage);
      }
    }
  }

 private:
  template <class M, uint32_t kPanels>
  static TERRAZZO_GROUP_FN void consume_panels(Consumer<M>& consumer) {
    const AttendMergeArgs args = consumer.instruction().args.attend_merge;
    const ModelShape& shape = consumer.params.shape;
    typename M::template DecodeAttention<kPanels, 1> total;
    typename M::template DecodeAttention<kPanels, 1> part;
    for (uint32_t chunk = 0; chunk < num_chunks(shape); ++chunk) {
      const uint32_t heads = AttendDecode::partial_rows(shape, chunk * kPartialRowsPerStage);
      const bool mine = chunk % kNumConsumers == consumer.index();
      if (mine) {
        clear(total, heads, shape.head_dim);
      }
      for (uint32_t split = 0; split < args.num_splits; ++split) {
        const auto slot = consumer.use();
        if (mine) {
          load_partial(part, slot, heads, shape);
          fold(total, part, heads, shape.head_dim);
        }
        consumer.release(slot);
      }
      for (uint32_t panel = 0; panel < shape.head_panels() && mine; ++panel) {
        const auto values = take_attention(total, panel, heads, shape.head_dim);
        auto stage = consumer.stage();
        store_panel(stage, values, heads, [&](uint32_t) TERRAZZO_LAMBDA { return args.row; });
        consumer.publish(stage);
      }
    }
  }
};

}  // namespace terrazzo
