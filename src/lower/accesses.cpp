#include "lower/accesses.hpp"

#include <algorithm>
#include <tuple>

namespace terrazzo::detail {
namespace {

using enum AccessMode;

constexpr uint32_t kVectorRows = kChunkBytes / sizeof(float);  // rows of the smallest copy of sums

class Walk {
 public:
  Walk(uint32_t gpu, int32_t layer, const ModelShape& shape, const StepLimits& limits,
       const StepTables& tables, AccessSink sink, void* context)
      : gpu_(gpu),
        layer_(layer),
        shape_(shape),
        limits_(limits),
        tables_(tables),
        sink_(sink),
        context_(context) {}

  void run(const Instruction& instruction) {
    const Operands& args = instruction.args;
    switch (instruction.opcode) {
      case Opcode::kStepEnd:
        break;
      case Opcode::kEmbed:
        embed(args.embed);
        break;
      case Opcode::kQkvRopeAppend:
        qkv_rope_append(args.gemm);
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
        read_attention(args.gemm);
        add_residual(args.gemm, Buffer::kX, Buffer::kX1, Buffer::kSumSqX1);
        break;
      case Opcode::kGateUpSilu:
        gate_up_silu(args.gemm);
        break;
      case Opcode::kDownResidual:
        read_act(args.gemm);
        add_residual(args.gemm, Buffer::kX1, Buffer::kX, Buffer::kSumSqX);
        break;
      case Opcode::kOPartial:
        read_attention(args.gemm);
        write_partials(args.gemm);
        break;
      case Opcode::kDownPartial:
        read_act(args.gemm);
        write_partials(args.gemm);
        break;
      case Opcode::kReduceO:
        read_partials(args.reduce);
        add_residual(args.reduce, Buffer::kX, Buffer::kX1, Buffer::kSumSqX1);
        break;
      case Opcode::kReduceResidual:
        read_partials(args.reduce);
        add_residual(args.reduce, Buffer::kX1, Buffer::kX, Buffer::kSumSqX);
        break;
      case Opcode::kGatherNorm:
        gather_norm(args.gather);
        break;
      case Opcode::kLmHead:
        lm_head(args.gemm);
        break;
      case Opcode::kSample:
        sample(args.sample);
        break;
    }
    flush();
  }

 private:
  void touch(uint32_t gpu, Buffer buffer, AccessMode mode, uint64_t begin, uint64_t bytes) {
    if (pending_.end == begin && pending_.gpu == gpu && pending_.buffer == buffer &&
        pending_.mode == mode && pending_.end != pending_.begin) {
      pending_.end += bytes;
      return;
    }
    flush();
    pending_ = {gpu, buffer, mode, begin, begin + bytes};
  }

  void flush() {
    if (pending_.begin != pending_.end) {
      sink_(context_, pending_);
    }
    pending_.begin = pending_.end;
  }

  /// Rows of consecutive [128, 64] tiles.
  void tiles(uint32_t gpu, Buffer buffer, AccessMode mode, uint64_t first, uint32_t count,
             uint32_t row, uint32_t rows) {
    for (uint64_t tile = first; tile < first + count; ++tile) {
      touch(gpu, buffer, mode, tile * kPanelBytes + uint64_t{row} * kRowBytes,
            uint64_t{rows} * kRowBytes);
    }
  }

  /// A residual buffer's panels of a row block, then their sums of squares.
  void residual(uint32_t gpu, Buffer values, Buffer sums, AccessMode mode, uint32_t block,
                uint32_t rows, uint32_t first_panel, uint32_t panels) {
    const uint64_t first = uint64_t{block} * shape_.hidden_panels() + first_panel;
    tiles(gpu, values, mode, first, panels, 0, rows);
    for (uint64_t line = first; line < first + panels; ++line) {
      touch(gpu, sums, mode, line * kRowBlock * sizeof(float),
            round_up(rows, kVectorRows) * sizeof(float));
    }
  }

  uint64_t page_at(uint32_t page, uint32_t kv_head) const {
    const uint64_t index = static_cast<uint64_t>(layer_) * limits_.num_pages + page;
    return (index * shape_.local_kv_heads() + kv_head) * shape_.page_bytes();
  }

  /// K and V of the tokens [page_begin * 64, tokens) of a sequence.
  void read_pages(uint32_t page_table_offset, uint32_t kv_head, uint32_t page_begin,
                  uint32_t tokens) {
    for (uint32_t i = page_begin; i * kPageTokens < tokens; ++i) {
      const uint64_t page = page_at(tables_.page_ids[page_table_offset + i], kv_head);
      for_each_page_range(shape_, page, tokens - i * kPageTokens,
                          [&](uint64_t begin, uint64_t end) {
                            touch(gpu_, Buffer::kKvPool, kRead, begin, end - begin);
                          });
    }
  }

  uint64_t attention_at(uint32_t block) const {
    return uint64_t{shape_.attention_block(block)} * shape_.attention_panels();
  }

  /// Attention output of `heads` query heads from `head` of the attention buffer on.
  void write_attention(uint32_t row, uint32_t rows, uint32_t head, uint32_t heads) {
    const uint32_t block = row / kRowBlock;
    const uint64_t first = attention_at(block) + uint64_t{head} * shape_.head_panels();
    tiles(shape_.attention_gpu(gpu_, block), Buffer::kAttention, kWrite, first,
          heads * shape_.head_panels(), row % kRowBlock, rows);
  }

  void touch_splits(uint32_t gpu, AccessMode mode, uint32_t first_slot, uint32_t count) {
    const uint64_t line_bytes = shape_.partial_elems() * sizeof(float);
    for (uint64_t slot = first_slot; slot < uint64_t{first_slot} + count; ++slot) {
      touch(gpu, Buffer::kSplits, mode, slot * shape_.padded_group() * line_bytes,
            shape_.group() * line_bytes);
    }
  }

  void embed(const EmbedArgs& args) {
    for (uint32_t i = 0; i < args.rows; ++i) {
      const int32_t token = tables_.rows[args.row_block * kRowBlock + i].token;
      if (token < 0) {
        touch(gpu_, Buffer::kSampled, kRead,
              static_cast<uint64_t>(-(token + 1)) * sizeof(SampledToken), sizeof(SampledToken));
      }
    }
    residual(gpu_, Buffer::kX, Buffer::kSumSqX, kWrite, args.row_block, args.rows, args.first_panel,
             args.panels);
  }

  void qkv_rope_append(const GemmArgs& args) {
    residual(gpu_, Buffer::kX, Buffer::kSumSqX, kRead, args.row_block, args.rows, 0,
             shape_.hidden_panels());
    const uint32_t q_panels = shape_.group() * shape_.head_panels();
    for (uint32_t panel = args.first_panel; panel < args.first_panel + args.panels; ++panel) {
      const uint32_t kv_head = panel / shape_.group_panels();
      const uint32_t in_group = panel % shape_.group_panels();
      if (in_group < q_panels) {
        write_q(args, kv_head, in_group / shape_.head_panels(), in_group % shape_.head_panels());
      } else {
        append(args, kv_head, in_group - q_panels);
      }
    }
  }

  void write_q(const GemmArgs& args, uint32_t kv_head, uint32_t in_group, uint32_t head_panel) {
    const uint32_t head = kv_head * shape_.group() + in_group;
    const uint64_t tile =
        (uint64_t{args.row_block} * shape_.local_heads() + head) * shape_.head_panels() +
        head_panel;
    for (uint32_t i = 0; i < args.rows; ++i) {
      const uint32_t row = args.row_block * kRowBlock + i;
      if ((tables_.rows[row].flags & kDecodeRow) != 0) {
        touch(gpu_, Buffer::kQDecode, kWrite,
              q_decode_at(row, kv_head, head_panel) + in_group * kRowBytes, kRowBytes);
      } else {
        tiles(gpu_, Buffer::kQPrefill, kWrite, tile, 1, i, 1);
      }
    }
  }

  /// `panel` counts the K panels of a page, then its V panels.
  void append(const GemmArgs& args, uint32_t kv_head, uint32_t panel) {
    for (uint32_t i = 0; i < args.rows; ++i) {
      const RowInfo& row = tables_.rows[args.row_block * kRowBlock + i];
      touch(gpu_, Buffer::kKvPool, kWrite,
            page_at(row.append_page, kv_head) + uint64_t{panel} * kHalfPanelBytes +
                row.position % kPageTokens * kRowBytes,
            kRowBytes);
    }
  }

  uint64_t q_decode_at(uint32_t row, uint32_t kv_head, uint32_t head_panel) const {
    const uint64_t index =
        (uint64_t{row} * shape_.local_kv_heads() + kv_head) * shape_.head_panels() + head_panel;
    return index * shape_.padded_group() * kRowBytes;
  }

  void attend_prefill(const AttendPrefillArgs& args) {
    const uint64_t tile =
        (uint64_t{args.row_block} * shape_.local_heads() + args.q_head) * shape_.head_panels();
    tiles(gpu_, Buffer::kQPrefill, kRead, tile, shape_.head_panels(), args.row_begin, args.rows);
    read_pages(args.page_table_offset, args.kv_head, 0, args.position + args.rows);
    write_attention(args.row_block * kRowBlock + args.row_begin, args.rows,
                    shape_.first_attention_kv_head(gpu_) * shape_.group() + args.q_head, 1);
  }

  void attend_decode(const AttendDecodeArgs& args, bool partial) {
    const uint32_t split_end = args.split_begin + args.num_splits;
    const uint32_t target = shape_.attention_gpu(gpu_, args.row / kRowBlock);
    for (uint32_t row = args.row; row < args.row + args.rows; ++row) {
      for (uint32_t panel = 0; panel < shape_.head_panels(); ++panel) {
        touch(gpu_, Buffer::kQDecode, kRead, q_decode_at(row, args.kv_head, panel),
              shape_.group() * kRowBytes);
      }
      const RowInfo& info = tables_.rows[row];
      const uint32_t tokens = info.position + 1;
      read_pages(info.page_table_offset, args.kv_head,
                 args.split_begin * shape_.split_tokens / kPageTokens,
                 static_cast<uint32_t>(
                     std::min<uint64_t>(tokens, uint64_t{split_end} * shape_.split_tokens)));
      if (partial) {
        const uint32_t last = std::min(split_end, ceil_div(tokens, shape_.split_tokens));
        touch_splits(target, kWrite, args.partial_slot + (row - args.row) * args.num_splits,
                     last - std::min(last, args.split_begin));
      }
    }
    if (!partial) {
      write_attention(args.row, args.rows,
                      (shape_.first_attention_kv_head(gpu_) + args.kv_head) * shape_.group(),
                      shape_.group());
    }
  }

  void attend_merge(const AttendMergeArgs& args) {
    touch_splits(gpu_, kRead, args.partial_slot, args.num_splits);
    write_attention(args.row, 1, args.kv_head * shape_.group(), shape_.group());
  }

  void read_attention(const GemmArgs& args) {
    tiles(gpu_, Buffer::kAttention, kRead, attention_at(args.row_block), shape_.attention_panels(),
          0, args.rows);
  }

  void gate_up_silu(const GemmArgs& args) {
    residual(gpu_, Buffer::kX1, Buffer::kSumSqX1, kRead, args.row_block, args.rows, 0,
             shape_.hidden_panels());
    const uint64_t first = uint64_t{args.row_block} * shape_.act_panels() + args.first_panel / 2;
    tiles(gpu_, Buffer::kAct, kWrite, first, args.panels / 2, 0, args.rows);
  }

  void read_act(const GemmArgs& args) {
    tiles(gpu_, Buffer::kAct, kRead, uint64_t{args.row_block} * shape_.act_panels(),
          shape_.act_panels(), 0, args.rows);
  }

  /// First tile of what `rank` adds to a row block, at the owner.
  uint64_t partials_at(uint32_t rank, uint32_t block, uint32_t panel) const {
    const uint64_t owned = ceil_div(limits_.row_blocks(), shape_.world);
    return (rank * owned + shape_.owned_index(block)) * shape_.hidden_panels() + panel;
  }

  void write_partials(const GemmArgs& args) {
    tiles(shape_.owner(args.row_block), Buffer::kPartials, kWrite,
          partials_at(gpu_, args.row_block, args.first_panel), args.panels, 0, args.rows);
  }

  void read_partials(const ReduceArgs& args) {
    for (uint32_t rank = 0; rank < shape_.world; ++rank) {
      tiles(gpu_, Buffer::kPartials, kRead, partials_at(rank, args.row_block, args.first_panel),
            args.panels, 0, args.rows);
    }
  }

  /// What adds to some panels of the residual reads and writes of it.
  template <class Args>
  void add_residual(const Args& args, Buffer addend, Buffer values, Buffer sums) {
    tiles(gpu_, addend, kRead, uint64_t{args.row_block} * shape_.hidden_panels() + args.first_panel,
          args.panels, 0, args.rows);
    for (uint32_t gpu = 0; gpu < shape_.world; ++gpu) {
      residual(gpu, values, sums, kWrite, args.row_block, args.rows, args.first_panel, args.panels);
    }
  }

  void gather_norm(const GatherArgs& args) {
    const uint32_t hidden = shape_.hidden_panels();
    const LogitInfo* logit_rows = tables_.logit_rows + args.compact_block * kRowBlock;
    // Panel by panel: neighbouring rows of a panel are one range. Sums come in groups of rows.
    struct Part {
      Buffer buffer;
      uint64_t bytes;
      uint32_t group, first, panels;
    };
    for (const auto& [buffer, bytes, group, first, panels] :
         {Part{Buffer::kX, kRowBytes, 1, args.first_panel, args.panels},
          Part{Buffer::kSumSqX, sizeof(float), kVectorRows, 0, hidden}}) {
      for (uint32_t panel = first; panel < first + panels; ++panel) {
        for (uint32_t i = 0; i < args.rows; ++i) {
          const uint32_t row = logit_rows[i].row / group * group;
          if (i > 0 && row == logit_rows[i - 1].row / group * group) {
            continue;
          }
          const uint64_t tile = uint64_t{row / kRowBlock} * hidden + panel;
          touch(gpu_, buffer, kRead, (tile * kRowBlock + row % kRowBlock) * bytes, group * bytes);
        }
      }
    }
    tiles(gpu_, Buffer::kCompact, kWrite, uint64_t{args.compact_block} * hidden + args.first_panel,
          args.panels, 0, args.rows);
  }

  void lm_head(const GemmArgs& args) {
    tiles(gpu_, Buffer::kCompact, kRead, uint64_t{args.row_block} * shape_.hidden_panels(),
          shape_.hidden_panels(), 0, args.rows);
    const uint32_t owner = shape_.owner(args.row_block);
    const uint64_t piece_bytes = kPanelCols * sizeof(float);
    for (uint32_t i = 0; i < args.rows; ++i) {
      const uint64_t row = args.row_block * kRowBlock + i;
      const uint64_t index =
          (row * shape_.world + gpu_) * shape_.vocab_tiles() + args.first_panel / kPanelsPerColTile;
      touch(owner, Buffer::kCandidates, kWrite, index * sizeof(Candidate), sizeof(Candidate));
    }
    for (uint32_t i = 0; i < args.rows; ++i) {
      const uint32_t slot = tables_.logit_rows[args.row_block * kRowBlock + i].logits_slot;
      if (slot != kNoLogits) {
        const uint64_t panel =
            (uint64_t{slot} * shape_.world + gpu_) * shape_.vocab_panels() + args.first_panel;
        touch(owner, Buffer::kLogits, kWrite, panel * piece_bytes, args.panels * piece_bytes);
      }
    }
  }

  void sample(const SampleArgs& args) {
    const uint64_t candidates_bytes =
        uint64_t{shape_.world} * shape_.vocab_tiles() * sizeof(Candidate);
    touch(gpu_, Buffer::kCandidates, kRead, args.compact_row * candidates_bytes,
          args.rows * candidates_bytes);
    const uint64_t logits_bytes =
        uint64_t{shape_.world} * shape_.vocab_panels() * kPanelCols * sizeof(float);
    for (uint32_t row = args.compact_row; row < args.compact_row + args.rows; ++row) {
      const LogitInfo& info = tables_.logit_rows[row];
      if (info.temperature > 0 && (info.top_k > 0 || info.top_p < 1)) {
        touch(gpu_, Buffer::kLogits, kRead, info.logits_slot * logits_bytes, logits_bytes);
      }
    }
    for (uint32_t gpu = 0; gpu < shape_.world; ++gpu) {
      touch(gpu, Buffer::kSampled, kWrite, args.compact_row * sizeof(SampledToken),
            args.rows * sizeof(SampledToken));
    }
  }

  uint32_t gpu_;
  int32_t layer_;
  const ModelShape& shape_;
  const StepLimits& limits_;
  const StepTables& tables_;
  AccessSink sink_;
  void* context_;
  Access pending_{};
};

}  // namespace

void walk_accesses(const Instruction& instruction, uint32_t gpu, int32_t layer,
                   const ModelShape& shape, const StepLimits& limits, const StepTables& tables,
                   AccessSink sink, void* context) {
  Walk(gpu, layer, shape, limits, tables, sink, context).run(instruction);
}

}  // namespace terrazzo::detail
