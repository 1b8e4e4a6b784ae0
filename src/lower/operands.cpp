#include "lower/operands.hpp"

#include <algorithm>

#include "lower/brief_runs.hpp"

namespace terrazzo {
namespace {

/// Keeps the first expectation that fails.
class Expectations {
 public:
  void in_range(const char* name, uint64_t seen, uint64_t end) {
    if (seen >= end) {
      fail(name, "below " + std::to_string(end), seen);
    }
  }
  void equal(const char* name, uint64_t seen, uint64_t expected) {
    if (seen != expected) {
      fail(name, std::to_string(expected), seen);
    }
  }
  void between(const char* name, uint64_t seen, uint64_t low, uint64_t high) {
    if (seen < low || seen > high) {
      fail(name, std::to_string(low) + " to " + std::to_string(high), seen);
    }
  }
  void require(bool condition, const char* text) {
    if (!condition && problem_.empty()) {
      problem_ = text;
    }
  }
  bool ok() const { return problem_.empty(); }
  const std::string& problem() const { return problem_; }

 private:
  void fail(const char* name, const std::string& expected, uint64_t seen) {
    if (problem_.empty()) {
      problem_ = std::string(name) + ": expected " + expected + ", got " + std::to_string(seen);
    }
  }
  std::string problem_;
};

Segment segment_of(Opcode opcode) {
  switch (opcode) {
    case Opcode::kEmbed:
      return Segment::kPrologue;
    case Opcode::kGatherNorm:
    case Opcode::kLmHead:
    case Opcode::kSample:
    case Opcode::kStepEnd:
      return Segment::kEpilogue;
    default:
      return Segment::kBody;
  }
}

class OperandCheck {
 public:
  OperandCheck(uint32_t gpu, const LoweredStep& step, const ModelShape& shape,
               const StepLimits& limits)
      : gpu_(gpu), step_(step), shape_(shape), limits_(limits) {}

  std::string run(const Instruction& instruction, Segment segment) {
    const Operands& args = instruction.args;
    expect_.in_range("opcode", static_cast<uint32_t>(instruction.opcode), kNumOpcodes);
    if (expect_.ok()) {
      const bool early = segment == Segment::kPrologue && instruction.layer_offset > 0;
      expect_.require((early ? Segment::kBody : segment) == segment_of(instruction.opcode),
                      "wrong segment of the program");
      flags(instruction);
    }
    if (!expect_.ok()) {
      return expect_.problem();
    }
    switch (instruction.opcode) {
      case Opcode::kStepEnd:
        break;
      case Opcode::kEmbed:
        rows_of_block(args.embed.row_block, args.embed.rows, num_rows());
        panels_of(args.embed.first_panel, args.embed.panels, shape_.hidden_panels());
        break;
      case Opcode::kQkvRopeAppend:
        gemm(args.gemm, num_rows(), shape_.qkv_panels(), shape_.hidden_panels());
        break;
      case Opcode::kAttendPrefill:
        attend_prefill(args.attend_prefill);
        break;
      case Opcode::kAttendDecode:
        attend_decode(args.attend_decode, (instruction.flags & kPartial) != 0);
        break;
      case Opcode::kAttendMerge:
        attend_merge(args.attend_merge);
        break;
      case Opcode::kOProjResidual:
        expect_.equal("O sharded", shape_.o_sharded, false);
        gemm(args.gemm, num_rows(), shape_.hidden_panels(), shape_.attention_panels());
        owned(args.gemm.row_block);
        break;
      case Opcode::kGateUpSilu:
        gemm(args.gemm, num_rows(), shape_.gate_up_panels(), shape_.hidden_panels());
        expect_.equal("first_panel % 2", args.gemm.first_panel % 2, 0);
        expect_.equal("panels % 2", args.gemm.panels % 2, 0);
        break;
      case Opcode::kDownResidual:
        expect_.equal("GPUs", shape_.world, 1);
        gemm(args.gemm, num_rows(), shape_.hidden_panels(), shape_.act_panels());
        break;
      case Opcode::kDownPartial:
        expect_.between("GPUs", shape_.world, 2, kMaxGpus);
        gemm(args.gemm, num_rows(), shape_.hidden_panels(), shape_.act_panels());
        break;
      case Opcode::kOPartial:
        expect_.equal("O sharded", shape_.o_sharded, true);
        gemm(args.gemm, num_rows(), shape_.hidden_panels(), shape_.attention_panels());
        break;
      case Opcode::kReduceO:
        expect_.equal("O sharded", shape_.o_sharded, true);
        [[fallthrough]];
      case Opcode::kReduceResidual:
        rows_of_block(args.reduce.row_block, args.reduce.rows, num_rows());
        panels_of(args.reduce.first_panel, args.reduce.panels, shape_.hidden_panels());
        owned(args.reduce.row_block);
        break;
      case Opcode::kGatherNorm:
        rows_of_block(args.gather.compact_block, args.gather.rows, num_compact_rows());
        panels_of(args.gather.first_panel, args.gather.panels, shape_.hidden_panels());
        break;
      case Opcode::kLmHead:
        lm_head(args.gemm);
        break;
      case Opcode::kSample:
        sample(args.sample);
        break;
    }
    return expect_.problem();
  }

 private:
  uint32_t num_rows() const { return static_cast<uint32_t>(step_.rows.size()); }
  uint32_t num_compact_rows() const { return static_cast<uint32_t>(step_.logit_rows.size()); }

  void flags(const Instruction& instruction) {
    if ((instruction.flags & kBriefRun) != 0) {
      expect_.equal("kBriefRun of a brief instruction", is_brief(instruction.opcode), true);
    }
    const uint32_t flags = instruction.flags & ~kBriefRun;
    switch (instruction.opcode) {
      case Opcode::kQkvRopeAppend:
      case Opcode::kOProjResidual:
      case Opcode::kGateUpSilu:
      case Opcode::kDownResidual:
      case Opcode::kDownPartial:
      case Opcode::kOPartial:
      case Opcode::kLmHead:
        expect_.equal("flags", flags & ~kSmallTokens, 0);
        if ((instruction.flags & kSmallTokens) != 0) {
          expect_.between("rows of a small tile", instruction.args.gemm.rows, 1, kSmallRows);
        }
        break;
      case Opcode::kAttendDecode:
        expect_.equal("flags", flags & ~kPartial, 0);
        break;
      default:
        expect_.equal("flags", flags, 0);
    }
  }

  /// All valid rows of a block.
  void rows_of_block(uint32_t block, uint32_t rows, uint32_t total) {
    expect_.in_range("row_block", block, ceil_div(total, kRowBlock));
    if (expect_.ok()) {
      expect_.equal("rows", rows, std::min(total - block * kRowBlock, kRowBlock));
    }
  }

  void owned(uint32_t block) { expect_.equal("owner", shape_.owner(block), gpu_); }

  void panels_of(uint32_t first, uint32_t panels, uint32_t total) {
    expect_.in_range("first_panel", first, total);
    expect_.between("panels", panels, 1, kPanelsPerColTile);
    expect_.between("end panel", uint64_t{first} + panels, 1, total);
  }

  void gemm(const GemmArgs& args, uint32_t rows, uint32_t panels, uint32_t k_panels) {
    rows_of_block(args.row_block, args.rows, rows);
    panels_of(args.first_panel, args.panels, panels);
    expect_.equal("k_panels", args.k_panels, k_panels);
  }

  void lm_head(const GemmArgs& args) {
    gemm(args, num_compact_rows(), shape_.vocab_panels(), shape_.hidden_panels());
    expect_.equal("first_panel % 4", args.first_panel % kPanelsPerColTile, 0);
    expect_.require(
        args.panels == kPanelsPerColTile || args.first_panel + args.panels == shape_.vocab_panels(),
        "panels: expected all up to the next multiple of 4");
  }

  void attend_prefill(const AttendPrefillArgs& args) {
    expect_.in_range("row_begin", args.row_begin, kRowBlock);
    expect_.between("rows", args.rows, 1, kRowBlock - std::min(args.row_begin, kRowBlock - 1));
    expect_.in_range("q_head", args.q_head, shape_.local_heads());
    expect_.equal("kv_head", args.kv_head, args.q_head / shape_.group());
    const uint64_t first = uint64_t{args.row_block} * kRowBlock + args.row_begin;
    expect_.between("end row", first + args.rows, 1, num_rows());
    if (!expect_.ok()) {
      return;
    }
    for (uint32_t i = 0; i < args.rows; ++i) {
      const RowInfo& row = step_.rows[first + i];
      expect_.equal("position", uint64_t{args.position} + i, row.position);
      expect_.equal("page_table_offset", args.page_table_offset, row.page_table_offset);
      expect_.equal("decode rows", row.flags & kDecodeRow, 0);
    }
  }

  uint32_t splits_of(uint32_t row) const {
    return ceil_div(step_.rows[row].position + 1, shape_.split_tokens);
  }

  void slots(uint32_t first, uint64_t count) {
    expect_.between("end partial slot", first + count, 0, limits_.max_partials);
  }

  /// Pages of all its rows.
  uint64_t decode_pages(const AttendDecodeArgs& args) const {
    const uint64_t pages_per_split = shape_.split_tokens / kPageTokens;
    uint64_t total = 0;
    for (uint32_t row = args.row; row < args.row + args.rows; ++row) {
      const uint64_t pages = ceil_div(step_.rows[row].position + 1, kPageTokens);
      const uint64_t begin = std::min(args.split_begin * pages_per_split, pages);
      const uint64_t end =
          std::min((uint64_t{args.split_begin} + args.num_splits) * pages_per_split, pages);
      total += end - begin;
    }
    return total;
  }

  void attend_decode(const AttendDecodeArgs& args, bool partial) {
    constexpr uint32_t kMaxRows = 16;
    expect_.between("rows", args.rows, 1, kMaxRows);
    expect_.in_range("kv_head", args.kv_head, shape_.local_kv_heads());
    expect_.between("end row", uint64_t{args.row} + args.rows, 1, num_rows());
    if (!expect_.ok()) {
      return;
    }
    expect_.equal("half of the last row", (args.row + args.rows - 1) / kHalfRows,
                  args.row / kHalfRows);
    uint32_t splits = 0;
    for (uint32_t row = args.row; row < args.row + args.rows; ++row) {
      expect_.equal("decode rows", step_.rows[row].flags & kDecodeRow, kDecodeRow);
      splits = std::max(splits, splits_of(row));
    }
    expect_.equal("pages", args.pages, decode_pages(args));
    if (!partial) {
      expect_.equal("split_begin", args.split_begin, 0);
      expect_.equal("num_splits", args.num_splits, splits);
      return;
    }
    expect_.equal("rows of a partial result", args.rows, 1);
    expect_.in_range("split_begin", args.split_begin, splits);
    expect_.between("num_splits", args.num_splits, 1, splits - std::min(args.split_begin, splits));
    slots(args.partial_slot, args.num_splits);
  }

  void attend_merge(const AttendMergeArgs& args) {
    expect_.in_range("row", args.row, num_rows());
    expect_.in_range("kv_head", args.kv_head, shape_.attention_kv_heads());
    if (!expect_.ok()) {
      return;
    }
    expect_.equal("GPU", gpu_, shape_.attention_gpu(gpu_, args.row / kRowBlock));
    expect_.equal("decode rows", step_.rows[args.row].flags & kDecodeRow, kDecodeRow);
    expect_.equal("num_splits", args.num_splits, splits_of(args.row));
    slots(args.partial_slot, args.num_splits);
  }

  void sample(const SampleArgs& args) {
    expect_.between("rows", args.rows, 1, kHalfRows);
    expect_.between("end row", uint64_t{args.compact_row} + args.rows, 1, num_compact_rows());
    if (expect_.ok()) {
      expect_.equal("half of the last row", (args.compact_row + args.rows - 1) / kHalfRows,
                    args.compact_row / kHalfRows);
      owned(args.compact_row / kRowBlock);
    }
  }

  uint32_t gpu_;
  const LoweredStep& step_;
  const ModelShape& shape_;
  const StepLimits& limits_;
  Expectations expect_;
};

}  // namespace

std::string operand_problem(const Instruction& instruction, uint32_t gpu, Segment segment,
                            const LoweredStep& step, const ModelShape& shape,
                            const StepLimits& limits) {
  return OperandCheck(gpu, step, shape, limits).run(instruction, segment);
}

std::string table_problem(const LoweredStep& step, const ModelShape& shape,
                          const StepLimits& limits) {
  Expectations expect;
  expect.equal("GPUs", step.gpus.size(), shape.world);
  expect.equal("layers", step.num_layers, shape.num_layers);
  expect.between("rows", step.rows.size(), 1, limits.max_rows);
  expect.between("logit rows", step.logit_rows.size(), 0, limits.max_sequences);
  for (const RowInfo& row : step.rows) {
    const uint64_t entry = uint64_t{row.page_table_offset} + row.position / kPageTokens;
    expect.in_range("position", row.position, limits.max_position);
    expect.in_range("page table entry", entry, step.page_ids.size());
    if (expect.ok()) {
      expect.equal("append_page", row.append_page, step.page_ids[entry]);
      expect.between("token", static_cast<uint64_t>(int64_t{row.token} + limits.max_sequences), 0,
                     uint64_t{limits.max_sequences} + shape.vocab - 1);
    }
  }
  for (const uint32_t page : step.page_ids) {
    expect.in_range("page", page, limits.num_pages);
  }
  for (const LogitInfo& info : step.logit_rows) {
    expect.in_range("logit row", info.row, step.rows.size());
    if (info.logits_slot != kNoLogits) {
      expect.in_range("logits slot", info.logits_slot, limits.max_logit_rows);
    }
  }
  return expect.problem();
}

}  // namespace terrazzo
