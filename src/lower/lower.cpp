#include "lower/lower.hpp"

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "lower/attention_plan.hpp"
#include "lower/brief_runs.hpp"
#include "lower/emitter.hpp"
#include "lower/step_tables.hpp"
#include "lower/tile_choice.hpp"

namespace terrazzo {
namespace {

using enum CounterFamily;

// A row's logits pass through one SM several times; more SMs share the rows of a block.
constexpr uint32_t kRowsPerSample = 8;

/// Writes the programs of all GPUs: layer by layer, phase by phase, each phase after those it
/// needs.
class Lowering {
 public:
  Lowering(LoweredStep& step, const ModelShape& shape, const LowerOptions& options,
           const AttentionPlan& attention)
      : step_(step),
        shape_(shape),
        num_sms_(options.num_sms),
        attention_(attention),
        counters_(step.counters),
        num_rows_(static_cast<uint32_t>(step.rows.size())),
        num_compact_rows_(static_cast<uint32_t>(step.logit_rows.size())),
        row_blocks_(ceil_div(num_rows_, kRowBlock)),
        compact_blocks_(ceil_div(num_compact_rows_, kRowBlock)),
        emitter_(step, shape.world),
        sampled_readers_(sampled_readers(step, compact_blocks_)) {}

  void run() {
    on_all(Segment::kPrologue, {&Lowering::embed});
    on_all(Segment::kBody, {&Lowering::qkv, &Lowering::attention, &Lowering::merges});
    if (shape_.o_sharded) {
      on_all(Segment::kBody, {&Lowering::partial_o, &Lowering::reduce_o});
    } else {
      on_all(Segment::kBody, {&Lowering::o});
    }
    on_all(Segment::kBody, {&Lowering::gate_up});
    if (shape_.world > 1) {
      on_all(Segment::kBody, {&Lowering::partial_down, &Lowering::reduce_down});
    } else {
      on_all(Segment::kBody, {&Lowering::down});
    }
    on_all(Segment::kEpilogue,
           {&Lowering::gather, &Lowering::lm_head, &Lowering::sample, &Lowering::step_end});
    emitter_.check_targets();
  }

  uint32_t num_brief() const { return emitter_.num_brief(); }

 private:
  /// Each phase of all GPUs before the next phase of any, so that waits find complete sums.
  void on_all(Segment segment, std::initializer_list<void (Lowering::*)()> phases) {
    for (const auto phase : phases) {
      for (gpu_ = 0; gpu_ < shape_.world; ++gpu_) {
        emitter_.select(gpu_, segment);
        (this->*phase)();
      }
    }
  }

  uint32_t rows_of(uint32_t block) const {
    return std::min(num_rows_ - block * kRowBlock, kRowBlock);
  }
  uint32_t compact_rows_of(uint32_t block) const {
    return std::min(num_compact_rows_ - block * kRowBlock, kRowBlock);
  }
  uint32_t at_owner(uint32_t block) const {
    return shape_.world == 1 ? 1 : 1u << shape_.owner(block);  // most often without the division
  }
  /// Where attention results of a row block go.
  uint32_t at_attention(uint32_t block) const { return 1u << shape_.attention_gpu(gpu_, block); }
  uint32_t owned_blocks() const {
    return row_blocks_ > gpu_ ? ceil_div(row_blocks_ - gpu_, shape_.world) : 0;
  }
  int32_t counter(CounterFamily family, uint32_t index) const {
    return counters_.at(family, index);
  }
  int32_t previous(CounterFamily family, uint32_t index) const {
    return counters_.previous(counters_.at(family, index));
  }

  uint32_t tile_panels(uint32_t panels, uint32_t blocks, uint32_t least) const {
    return choose_tile_panels(panels, blocks, least, num_sms_, num_rows_ <= kSmallRows);
  }

  /// Calls body(first panel, panels) for the hidden columns, up to 256 at a time.
  template <class Body>
  void for_each_panels(const Body& body) const {
    for (uint32_t panel = 0; panel < shape_.hidden_panels(); panel += kPanelsPerColTile) {
      body(panel, std::min(kPanelsPerColTile, shape_.hidden_panels() - panel));
    }
  }

  Emitted emit_gemm(Opcode opcode, uint32_t block, uint32_t rows, uint32_t panel, uint32_t panels,
                    uint32_t k_panels) {
    Emitted instruction = emitter_.emit(opcode, rows <= kSmallRows ? kSmallTokens : 0);
    instruction.args().gemm = {block, rows, panel, panels, k_panels};
    return instruction;
  }

  void embed() {
    for (uint32_t block = 0; block < row_blocks_; ++block) {
      for_each_panels([&](uint32_t panel, uint32_t panels) {
        Emitted instruction = emitter_.emit(Opcode::kEmbed);
        instruction.args().embed = {block, rows_of(block), panel, panels};
        emitter_.signal(instruction, counter(kX, block), panels, emitter_.own());
      });
    }
  }

  void qkv() {
    const uint32_t total = shape_.qkv_panels();
    const uint32_t group = shape_.group_panels();
    const uint32_t tile = tile_panels(total, row_blocks_, 1);
    for_each_tile({row_blocks_, total, tile, 0, wave_beside_peers(row_blocks_, shape_.world)},
                  [&](uint32_t block, uint32_t panel, uint32_t panels) {
                    Emitted instruction = emit_gemm(Opcode::kQkvRopeAppend, block, rows_of(block),
                                                    panel, panels, shape_.hidden_panels());
                    emitter_.wait(instruction, previous(kX, block));
                    const uint32_t end = panel + panels;
                    for (uint32_t begin = panel; begin < end;) {
                      const uint32_t stop = std::min((begin / group + 1) * group, end);
                      emitter_.signal(instruction, counters_.kv(begin / group, block), stop - begin,
                                      emitter_.own());
                      begin = stop;
                    }
                  });
  }

  /// Longest first. Runs of equal units start at another row block on each GPU, so that they do not
  /// all send to one owner.
  void attention() {
    const auto& units = attention_.units;
    for (size_t begin = 0; begin < units.size();) {
      size_t end = begin + 1;
      while (end < units.size() && units[end].pages == units[begin].pages) {
        ++end;
      }
      const uint32_t start_row = (units[begin].row / kRowBlock + gpu_) * kRowBlock;
      size_t start = begin;
      while (start < end && units[start].row < start_row) {
        ++start;
      }
      for (size_t i = start; i < end; ++i) {
        attend(units[i]);
      }
      for (size_t i = begin; i < start; ++i) {
        attend(units[i]);
      }
      begin = end;
    }
  }

  void attend(const AttentionUnit& unit) {
    const uint32_t block = unit.row / kRowBlock;
    if (unit.prefill) {
      for (uint32_t head = 0; head < shape_.local_heads(); ++head) {
        const uint32_t kv_head = head / shape_.group();
        const RowInfo& first = step_.rows[unit.row];
        Emitted instruction = emitter_.emit(Opcode::kAttendPrefill);
        instruction.args().attend_prefill = {
            block,          unit.row % kRowBlock,   unit.rows, kv_head, head,
            first.position, first.page_table_offset};
        emitter_.wait(instruction, counters_.kv(kv_head, unit.first_block),
                      block - unit.first_block + 1);
        emitter_.signal(instruction, counter(kAttn, block), 1, at_attention(block));
      }
      return;
    }
    for (uint32_t kv_head = 0; kv_head < shape_.local_kv_heads(); ++kv_head) {
      const bool whole = unit.split_row == kNotSplit;
      Emitted instruction = emitter_.emit(Opcode::kAttendDecode, whole ? 0 : kPartial);
      instruction.args().attend_decode = {unit.row,        unit.rows, kv_head,   unit.split_begin,
                                          unit.num_splits, 0,         unit.pages};
      emitter_.wait(instruction, counters_.kv(kv_head, block));
      int32_t done = counter(kAttn, block);
      if (!whole) {
        const SplitRow& split = attention_.split_rows[unit.split_row];
        const uint32_t head = shape_.first_attention_kv_head(gpu_) + kv_head;
        instruction.args().attend_decode.partial_slot =
            split.first_slot + head * split.num_splits + unit.split_begin;
        done = counter(kMerge, split.first_merge + head);
      }
      emitter_.signal(instruction, done, 1, at_attention(block));
    }
  }

  void merges() {
    for (const SplitRow& split : attention_.split_rows) {
      const uint32_t block = split.row / kRowBlock;
      if (shape_.attention_gpu(gpu_, block) != gpu_) {
        continue;
      }
      for (uint32_t head = 0; head < shape_.attention_kv_heads(); ++head) {
        Emitted instruction = emitter_.emit(Opcode::kAttendMerge);
        instruction.args().attend_merge = {split.row, head, split.num_splits,
                                           split.first_slot + head * split.num_splits};
        emitter_.wait(instruction, counter(kMerge, split.first_merge + head));
        emitter_.signal(instruction, counter(kAttn, block), 1, emitter_.own());
      }
    }
  }

  void o() {
    project(Opcode::kOProjResidual, kAttn, shape_.attention_panels(), previous(kX, 0), kX1);
  }
  void partial_o() { project_partial(Opcode::kOPartial, kAttn, shape_.attention_panels(), kPartO); }
  void reduce_o() { reduce(Opcode::kReduceO, kPartO, previous(kX, 0), kX1); }

  void gate_up() {
    const uint32_t total = shape_.gate_up_panels();
    const uint32_t tile = tile_panels(total, row_blocks_, 2);
    for_each_tile({row_blocks_, total, tile}, [&](uint32_t block, uint32_t panel, uint32_t panels) {
      Emitted instruction = emit_gemm(Opcode::kGateUpSilu, block, rows_of(block), panel, panels,
                                      shape_.hidden_panels());
      emitter_.wait(instruction, counter(kX1, block));
      emitter_.signal(instruction, counter(kAct, block), panels, emitter_.own());
    });
  }

  void down() { project(Opcode::kDownResidual, kAct, shape_.act_panels(), counter(kX1, 0), kX); }
  void partial_down() { project_partial(Opcode::kDownPartial, kAct, shape_.act_panels(), kPart); }
  void reduce_down() { reduce(Opcode::kReduceResidual, kPart, counter(kX1, 0), kX); }

  /// O, or down, of this GPU's own rows. `residual`: counter of the first block of what is added.
  void project(Opcode opcode, CounterFamily input, uint32_t k_panels, int32_t residual,
               CounterFamily output) {
    const uint32_t total = shape_.hidden_panels();
    const uint32_t tile = tile_panels(total, owned_blocks(), 1);
    for_each_tile(
        {owned_blocks(), total, tile}, [&](uint32_t own, uint32_t panel, uint32_t panels) {
          const uint32_t block = own * shape_.world + gpu_;
          Emitted instruction = emit_gemm(opcode, block, rows_of(block), panel, panels, k_panels);
          emitter_.wait(instruction, counter(input, block));
          emitter_.wait(instruction, residual + static_cast<int32_t>(block));
          emitter_.signal(instruction, counter(output, block), panels, emitter_.all());
        });
  }

  /// This GPU's share of O, or of down, for all rows.
  void project_partial(Opcode opcode, CounterFamily input, uint32_t k_panels,
                       CounterFamily output) {
    const uint32_t total = shape_.hidden_panels();
    const uint32_t tile = tile_panels(total, row_blocks_, 1);
    for_each_tile({row_blocks_, total, tile, gpu_, wave_beside_peers(row_blocks_, shape_.world)},
                  [&](uint32_t block, uint32_t panel, uint32_t panels) {
                    Emitted instruction =
                        emit_gemm(opcode, block, rows_of(block), panel, panels, k_panels);
                    emitter_.wait(instruction, counter(input, block));
                    emitter_.signal(instruction, counter(output, block), panels, at_owner(block));
                  });
  }

  /// The sums of them for this GPU's rows, as `project` gives them.
  void reduce(Opcode opcode, CounterFamily input, int32_t residual, CounterFamily output) {
    const uint32_t total = shape_.hidden_panels();
    for_each_tile({owned_blocks(), total, kPanelsPerColTile},
                  [&](uint32_t own, uint32_t panel, uint32_t panels) {
                    const uint32_t block = own * shape_.world + gpu_;
                    Emitted instruction = emitter_.emit(opcode);
                    instruction.args().reduce = {block, rows_of(block), panel, panels};
                    emitter_.wait(instruction, counter(input, block));
                    emitter_.wait(instruction, residual + static_cast<int32_t>(block));
                    emitter_.signal(instruction, counter(output, block), panels, emitter_.all());
                  });
  }

  void gather() {
    for (uint32_t block = 0; block < compact_blocks_; ++block) {
      const uint32_t rows = compact_rows_of(block);
      const LogitInfo* logit_rows = &step_.logit_rows[block * kRowBlock];
      const uint32_t first = logit_rows[0].row / kRowBlock;
      const uint32_t last = logit_rows[rows - 1].row / kRowBlock;
      for_each_panels([&](uint32_t panel, uint32_t panels) {
        Emitted instruction = emitter_.emit(Opcode::kGatherNorm);
        instruction.args().gather = {block, rows, panel, panels};
        emitter_.wait(instruction, previous(kX, first), last - first + 1);
        emitter_.signal(instruction, counter(kXg, block), panels, emitter_.own());
      });
    }
  }

  void lm_head() {
    for_each_tile({compact_blocks_, shape_.vocab_panels(), kPanelsPerColTile, gpu_},
                  [&](uint32_t block, uint32_t panel, uint32_t panels) {
                    Emitted instruction = emit_gemm(Opcode::kLmHead, block, compact_rows_of(block),
                                                    panel, panels, shape_.hidden_panels());
                    emitter_.wait(instruction, counter(kXg, block));
                    emitter_.signal(instruction, counter(kCand, block), panels, at_owner(block));
                  });
  }

  void sample() {
    for (uint32_t block = gpu_; block < compact_blocks_; block += shape_.world) {
      const uint32_t end = block * kRowBlock + compact_rows_of(block);
      const BlockRange& readers = sampled_readers_[block];
      // Together a block's instructions add the same to its counter, however many rows it has.
      uint32_t increments = kRowBlock / kRowsPerSample;
      for (uint32_t row = block * kRowBlock; row < end; row += kRowsPerSample) {
        const uint32_t increment = row + kRowsPerSample < end ? 1 : increments;
        increments -= increment;
        Emitted instruction = emitter_.emit(Opcode::kSample);
        instruction.args().sample = {row, std::min(kRowsPerSample, end - row)};
        emitter_.wait(instruction, counter(kCand, block));
        if (readers.count > 0) {
          emitter_.wait(instruction, previous(kX, readers.first), readers.count);
        }
        emitter_.signal(instruction, counter(kSampled, block), increment, emitter_.all());
      }
    }
  }

  void step_end() {
    Emitted instruction = emitter_.emit(Opcode::kStepEnd);
    emitter_.wait(instruction, previous(kX, 0), row_blocks_);
    if (compact_blocks_ > 0) {
      emitter_.wait(instruction, counter(kSampled, 0), compact_blocks_);
    }
  }

  LoweredStep& step_;
  const ModelShape& shape_;
  uint32_t num_sms_;
  const AttentionPlan& attention_;
  const CounterMap& counters_;
  uint32_t num_rows_;
  uint32_t num_compact_rows_;
  uint32_t row_blocks_;
  uint32_t compact_blocks_;
  Emitter emitter_;
  uint32_t gpu_ = 0;
  std::vector<BlockRange> sampled_readers_;  // [compact block]
};

}  // namespace

uint32_t max_counters_per_block(const ModelShape& shape, const StepLimits& limits) {
  // Every merge combines at least two partial results.
  return CounterMap(limits.row_blocks(), shape.local_kv_heads(), limits.compact_blocks(),
                    limits.max_partials / 2)
      .size();
}

HeapLayout heap_layout(const ModelShape& shape, const StepLimits& limits) {
  return make_heap_layout(
      shape, limits, BankLayout::size(max_counters_per_block(shape, limits), shape.num_layers));
}

void lower_into(LoweredStep& step, const StepRequest& request, const ModelShape& shape,
                const StepLimits& limits, const LowerOptions& options) {
  validate(shape);
  validate(request, shape, limits);
  fill_tables(step, request);
  const AttentionPlan attention = plan_attention(request, shape, limits, options.num_sms);
  step.num_layers = shape.num_layers;
  step.counters = CounterMap(
      ceil_div(static_cast<uint32_t>(step.rows.size()), kRowBlock), shape.local_kv_heads(),
      ceil_div(static_cast<uint32_t>(step.logit_rows.size()), kRowBlock), attention.num_merges);
  Lowering lowering(step, shape, options, attention);
  lowering.run();
  weave(step, options.weave);
  // Weaving repeats none of them in a segment.
  if (lowering.num_brief() > kBriefRunLength) {
    mark_brief_runs(step);
  }
}

LoweredStep lower(const StepRequest& request, const ModelShape& shape, const StepLimits& limits,
                  const LowerOptions& options) {
  LoweredStep step;
  lower_into(step, request, shape, limits, options);
  return step;
}

}  // namespace terrazzo
