#include "lower/work.hpp"

#include <algorithm>

#include "terrazzo/instructions/set.hpp"

namespace terrazzo {
namespace {

uint32_t consumers_with_rows(const Instruction& instruction, uint32_t rows) {
  return consumer_rows(instruction, rows, 1).count != 0 ? 2 : 1;
}

/// Token rows that the tensor cores multiply: whole instructions of 64 rows, or runs of 8 tokens.
uint32_t issued_rows(const Instruction& instruction, uint32_t rows) {
  uint32_t issued = 0;
  for (uint32_t consumer = 0; consumer < kNumConsumers; ++consumer) {
    const uint32_t count = consumer_rows(instruction, rows, consumer).count;
    issued +=
        (instruction.flags & kSmallTokens) != 0 ? round_up(count, 8U) : round_up(count, kHalfRows);
  }
  return issued;
}

}  // namespace

WorkTable::WorkTable(const ModelShape& shape, const StepTables& tables) : params_{} {
  params_.shape = shape;
  params_.tables = tables;
}

void WorkTable::store_to_owner(Work& work, uint32_t block, uint32_t gpu, uint64_t bytes) const {
  (params_.shape.owner(block) == gpu ? work.local_store_bytes : work.peer_store_bytes) += bytes;
}

void WorkTable::store_attention(Work& work, uint32_t block, uint32_t gpu, uint64_t bytes) const {
  const bool local = params_.shape.attention_gpu(gpu, block) == gpu;
  (local ? work.local_store_bytes : work.peer_store_bytes) += bytes;
}

void WorkTable::store_everywhere(Work& work, uint64_t bytes) const {
  work.local_store_bytes += bytes;
  work.peer_store_bytes += (params_.shape.world - 1) * bytes;
}

uint64_t WorkTable::residual_bytes(uint32_t rows, uint32_t panels) const {
  return uint64_t{panels} * (rows * kRowBytes + vector_rows(rows) * sizeof(float));
}

void WorkTable::gemm(Work& work, const Instruction& instruction, uint32_t gpu) const {
  const ModelShape& shape = params_.shape;
  const GemmArgs& args = instruction.args.gemm;
  const uint64_t panel_bytes = uint64_t{args.rows} * kRowBytes;
  const double outputs = double{kPanelCols} * args.panels;
  const double depth = 2.0 * kPanelCols * args.k_panels;
  work.flops = args.rows * outputs * depth;
  work.tensor_flops = issued_rows(instruction, args.rows) * outputs * depth;
  work.weight_bytes = uint64_t{args.panels} * args.k_panels * kHalfPanelBytes;
  work.load_bytes = work.weight_bytes + args.k_panels * panel_bytes;
  work.stages = args.panels * consumers_with_rows(instruction, args.rows);
  switch (instruction.opcode) {
    case Opcode::kQkvRopeAppend:
    case Opcode::kGateUpSilu:
      work.load_bytes += shape.hidden_panels() * vector_rows(args.rows) * sizeof(float);
      if (instruction.opcode == Opcode::kGateUpSilu) {
        work.stages /= 2;
      }
      work.local_store_bytes =
          work.stages * panel_bytes / consumers_with_rows(instruction, args.rows);
      break;
    case Opcode::kOProjResidual:
    case Opcode::kDownResidual:
      work.load_bytes += args.panels * panel_bytes;
      store_everywhere(work, residual_bytes(args.rows, args.panels));
      break;
    case Opcode::kDownPartial:
    case Opcode::kOPartial:
      store_to_owner(work, args.row_block, gpu, args.panels * panel_bytes);
      break;
    default:
      lm_head_outputs(work, instruction, gpu);
  }
}

void WorkTable::lm_head_outputs(Work& work, const Instruction& instruction, uint32_t gpu) const {
  const GemmArgs& args = instruction.args.gemm;
  work.stages = 0;
  uint64_t bytes = uint64_t{args.rows} * sizeof(Candidate);
  for (uint32_t consumer = 0; consumer < kNumConsumers; ++consumer) {
    const RowSpan span = consumer_rows(instruction, args.rows, consumer);
    if (span.count == 0) {
      continue;
    }
    const LogitInfo* const infos =
        params_.tables.logit_rows + args.row_block * kRowBlock + span.begin;
    const auto with_logits = std::count_if(infos, infos + span.count, [](const LogitInfo& info) {
      return info.logits_slot != kNoLogits;
    });
    work.stages += 1 + (with_logits > 0 ? args.panels * LmHead::kStagesPerPanel : 0);
    bytes += static_cast<uint64_t>(with_logits) * args.panels * kPanelCols * sizeof(float);
  }
  store_to_owner(work, args.row_block, gpu, bytes);
}

void WorkTable::attend_prefill(Work& work, const AttendPrefillArgs& args, uint32_t gpu) const {
  const ModelShape& shape = params_.shape;
  const uint64_t panel_bytes = uint64_t{args.rows} * kRowBytes;
  const uint32_t tokens = AttendPrefill::last_tokens(args);
  const uint32_t pages = AttendPrefill::num_pages(args);
  // Row i sees position + i + 1 tokens.
  const double visible = args.rows * (args.position + (args.rows + 1) / 2.0);
  work.flops = 4.0 * shape.head_dim * visible;
  for (uint32_t consumer = 0; consumer < kNumConsumers; ++consumer) {
    const RowSpan span = AttendPrefill::rows_of(args, consumer);
    if (span.count != 0) {
      const uint32_t end = args.position + span.begin - args.row_begin + span.count;
      work.tensor_flops +=
          4.0 * shape.head_dim * kHalfRows * ceil_div(end, kPageTokens) * kPageTokens;
      work.stages += shape.head_panels();
    }
  }
  work.kv_bytes = 2ULL * shape.head_panels() * tokens * kRowBytes;
  const uint64_t zeros = uint64_t{shape.head_panels()} * (pages * kPageTokens - tokens) * kRowBytes;
  work.load_bytes = work.kv_bytes + zeros + shape.head_panels() * panel_bytes;
  store_attention(work, args.row_block, gpu, shape.head_panels() * panel_bytes);
}

void WorkTable::attend_decode(Work& work, const Instruction& instruction, uint32_t gpu) const {
  const ModelShape& shape = params_.shape;
  const AttendDecodeArgs& args = instruction.args.attend_decode;
  const uint64_t head_bytes = uint64_t{shape.head_panels()} * shape.group() * kRowBytes;
  const uint32_t pages_per_split = shape.split_tokens / kPageTokens;
  uint32_t pages_of_consumer[kNumConsumers] = {};
  for (uint32_t i = 0; i < args.rows; ++i) {
    const auto range = AttendDecode::pages_of(params_, args, args.row + i);
    const uint32_t pages = range.end - range.begin;
    pages_of_consumer[i / AttendDecode::half_rows(args)] += pages;
    const uint32_t context = AttendDecode::context_of(params_, args.row + i);
    const uint32_t tokens =
        std::min(context, range.end * kPageTokens) - std::min(context, range.begin * kPageTokens);
    work.flops += 4.0 * shape.head_dim * shape.group() * tokens;
    work.tensor_flops += 4.0 * shape.head_dim * shape.padded_group() * pages * kPageTokens;
    work.kv_bytes += 2ULL * shape.head_panels() * tokens * kRowBytes;
    const uint64_t zeros =
        uint64_t{shape.head_panels()} * (pages * kPageTokens - tokens) * kRowBytes;
    work.load_bytes += zeros + head_bytes;
    uint64_t out = head_bytes;
    if ((instruction.flags & kPartial) != 0) {
      const uint32_t splits = ceil_div(pages, pages_per_split);
      out = uint64_t{splits} * shape.group() * shape.partial_elems() * sizeof(float);
      work.stages += splits * AttendMerge::num_chunks(shape);
    } else {
      work.stages += shape.head_panels();
    }
    store_attention(work, args.row / kRowBlock, gpu, out);
  }
  work.load_bytes += work.kv_bytes;
  work.busy_slots =
      kNumConsumers * slots_per_page(shape) * std::max(pages_of_consumer[0], pages_of_consumer[1]);
}

void WorkTable::sample(Work& work, const SampleArgs& args) const {
  const ModelShape& shape = params_.shape;
  work.load_bytes = uint64_t{args.rows} * Sample::candidates_per_row(shape) * sizeof(Candidate);
  for (uint32_t row = args.compact_row; row < args.compact_row + args.rows; ++row) {
    work.load_bytes += uint64_t{filter_passes(params_.tables.logit_rows[row], shape.vocab)} *
                       shape.vocab * sizeof(float);
  }
  work.stages = args.rows > 1 ? kNumConsumers : 1;
  store_everywhere(work, args.rows * sizeof(SampledToken));
}

Work WorkTable::of(const Instruction& instruction, uint32_t gpu) const {
  const ModelShape& shape = params_.shape;
  const Operands& args = instruction.args;
  Work work;
  switch (instruction.opcode) {
    case Opcode::kStepEnd:
      work.stages = 1;  // empty: it carries the wait to a storer
      break;
    case Opcode::kEmbed:
      work.weight_bytes = uint64_t{args.embed.rows} * args.embed.panels * kRowBytes;
      work.load_bytes = work.weight_bytes;
      work.stages = args.embed.panels * consumers_with_rows(instruction, args.embed.rows);
      work.local_store_bytes = residual_bytes(args.embed.rows, args.embed.panels);
      break;
    case Opcode::kAttendPrefill:
      attend_prefill(work, args.attend_prefill, gpu);
      break;
    case Opcode::kAttendDecode:
      attend_decode(work, instruction, gpu);
      break;
    case Opcode::kAttendMerge:
      work.load_bytes = uint64_t{args.attend_merge.num_splits} * shape.group() *
                        shape.partial_elems() * sizeof(float);
      work.stages = AttendMerge::num_chunks(shape) * shape.head_panels();
      work.local_store_bytes = uint64_t{shape.group()} * shape.head_panels() * kRowBytes;
      break;
    case Opcode::kReduceResidual:
    case Opcode::kReduceO:
      work.load_bytes =
          uint64_t{args.reduce.panels} * (1 + shape.world) * args.reduce.rows * kRowBytes;
      work.stages = args.reduce.panels * consumers_with_rows(instruction, args.reduce.rows);
      store_everywhere(work, residual_bytes(args.reduce.rows, args.reduce.panels));
      break;
    case Opcode::kGatherNorm:
      work.load_bytes = uint64_t{args.gather.rows} * args.gather.panels * kRowBytes;
      work.local_store_bytes = work.load_bytes;
      work.stages = args.gather.panels * consumers_with_rows(instruction, args.gather.rows);
      break;
    case Opcode::kSample:
      sample(work, args.sample);
      break;
    case Opcode::kQkvRopeAppend:
    case Opcode::kOProjResidual:
    case Opcode::kGateUpSilu:
    case Opcode::kDownResidual:
    case Opcode::kDownPartial:
    case Opcode::kOPartial:
    case Opcode::kLmHead:
      gemm(work, instruction, gpu);
      break;
  }
  LlamaInstructions::dispatch(instruction.opcode, [&](auto operation) {
    work.slots = operation.slots(instruction, params_).count;
  });
  work.busy_slots = std::max(work.busy_slots, work.slots);
  return work;
}

}  // namespace terrazzo
