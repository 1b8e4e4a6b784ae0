#include "simulate/sim_program.hpp"

#include <algorithm>
#include <functional>
#include <unordered_map>

namespace terrazzo {
namespace {

/// What L2 may hold, besides weights (by matrix) and cached tokens.
enum class Held : uint32_t { kX, kX1, kAttention, kAct, kCompact, kQuery, kOther };

class Compiler {
 public:
  Compiler(const LoweredStep& step, const ModelShape& shape, const CostModel& model, double clock)
      : step_(step), model_(model), slowed_(1 / clock), work_(shape, tables_of(step)) {}

  SimProgram compile(uint32_t gpu, uint32_t layers) {
    SimProgram program{{}, step_.view(gpu)};
    if (layers != 0) {
      program.view.num_layers = std::min(layers, program.view.num_layers);
    }
    for (const auto& segment : step_.gpus[gpu].segments) {
      for (const Instruction& instruction : segment) {
        program.code.push_back(compile(instruction, gpu));
      }
    }
    return program;
  }

 private:
  static StepTables tables_of(const LoweredStep& step) { return step.tables(); }

  SimInstruction compile(const Instruction& instruction, uint32_t gpu) {
    const Work work = work_.of(instruction, gpu);
    const KindCost& cost = model_.kinds[kind_of(instruction)];
    SimInstruction out{};
    out.instruction = &instruction;
    out.slots = work.slots;
    out.slot_ns = slowed_ * cost.load_slot_ns;
    out.tensor_ns = slowed_ * work.tensor_flops * 1e-6 * cost.consume_ns_per_mflop;
    out.stream_ns = slowed_ * work.busy_slots * cost.consume_slot_ns;
    out.tail_ns = slowed_ * (cost.consume_fixed_ns + work.stages * cost.consume_stage_ns);
    out.store_ns = cost.store_fixed_ns + work.stages * cost.store_stage_ns;
    out.load_bytes = static_cast<double>(work.load_bytes);
    out.tensor_flops = work.tensor_flops;
    out.local_store_bytes = static_cast<double>(work.local_store_bytes);
    out.peer_store_bytes = static_cast<double>(work.peer_store_bytes);
    add_operands(out, instruction, work);
    return out;
  }

  void add_operands(SimInstruction& out, const Instruction& instruction, const Work& work) {
    const Operands& args = instruction.args;
    const auto weights = static_cast<double>(work.weight_bytes);
    const auto cached = static_cast<double>(work.kv_bytes);
    const double rest = out.load_bytes - weights - cached;
    out.output = kNoObject;
    const auto gemm = [&](Matrix matrix, Held input, Held output) {
      out.operands[0] = {object(1 + static_cast<uint64_t>(matrix), args.gemm.first_panel), weights,
                         true};
      out.operands[1] = {held(input, args.gemm.row_block), rest};
      out.output = held(output, args.gemm.row_block);
    };
    switch (instruction.opcode) {
      case Opcode::kEmbed:
        out.stream_bytes = weights;
        out.output = held(Held::kX, args.embed.row_block);
        break;
      case Opcode::kQkvRopeAppend:
        return gemm(Matrix::kQkv, Held::kX, Held::kQuery);
      case Opcode::kOProjResidual:
        return gemm(Matrix::kO, Held::kAttention, Held::kX1);
      case Opcode::kOPartial:
        return gemm(Matrix::kO, Held::kAttention, Held::kOther);
      case Opcode::kGateUpSilu:
        return gemm(Matrix::kGateUp, Held::kX1, Held::kAct);
      case Opcode::kDownResidual:
        return gemm(Matrix::kDown, Held::kAct, Held::kX);
      case Opcode::kDownPartial:
        return gemm(Matrix::kDown, Held::kAct, Held::kOther);
      case Opcode::kLmHead:
        return gemm(Matrix::kLmHead, Held::kCompact, Held::kOther);
      case Opcode::kAttendPrefill: {
        const AttendPrefillArgs& attend = args.attend_prefill;
        const uint64_t sequence = uint64_t{attend.page_table_offset} * 1024 + attend.kv_head;
        out.operands[0] = {object(kSequences, sequence), cached, true};
        out.operands[1] = {held(Held::kQuery, attend.row_block), rest};
        out.output = held(Held::kAttention, attend.row_block);
        break;
      }
      case Opcode::kAttendDecode:
        out.stream_bytes = cached;
        out.operands[0] = {held(Held::kQuery, args.attend_decode.row / kRowBlock), rest};
        out.output = held(Held::kAttention, args.attend_decode.row / kRowBlock);
        break;
      case Opcode::kReduceResidual:
        out.operands[0] = {held(Held::kX1, args.reduce.row_block), rest};
        out.output = held(Held::kX, args.reduce.row_block);
        break;
      case Opcode::kReduceO:
        out.operands[0] = {held(Held::kX, args.reduce.row_block), rest};
        out.output = held(Held::kX1, args.reduce.row_block);
        break;
      case Opcode::kGatherNorm:
        out.output = held(Held::kCompact, args.gather.compact_block);
        break;
      default:
        break;  // small, and in L2: candidates, partial attention results
    }
  }

  uint32_t held(Held what, uint32_t block) {
    return object(kHeld + static_cast<uint64_t>(what), block);
  }

  /// Numbers objects as they come.
  uint32_t object(uint64_t family, uint64_t index) {
    return objects_.try_emplace(family << 48 | index, static_cast<uint32_t>(objects_.size()))
        .first->second;
  }

  static constexpr uint64_t kSequences = 1 + kNumMatrices;
  static constexpr uint64_t kHeld = kSequences + 1;

  const LoweredStep& step_;
  const CostModel& model_;
  double slowed_;
  WorkTable work_;
  std::unordered_map<uint64_t, uint32_t> objects_;
};

}  // namespace

const SimInstruction& SimProgram::at(const QueuePlace& place) const {
  size_t index = 0;
  const auto in = [&](const Instruction* first, uint32_t size) {
    // Segments are different arrays: only std::less orders pointers of different arrays.
    const std::less<const Instruction*> before;
    return !before(place.instruction, first) && before(place.instruction, first + size);
  };
  if (in(view.prologue, view.prologue_size)) {
    index = static_cast<size_t>(place.instruction - view.prologue);
  } else if (in(view.body, view.body_size)) {
    index = view.prologue_size + static_cast<size_t>(place.instruction - view.body);
  } else {
    index = view.prologue_size + view.body_size +
            static_cast<size_t>(place.instruction - view.epilogue);
  }
  return code[index];
}

std::vector<SimProgram> compile_programs(const LoweredStep& step, const ModelShape& shape,
                                         const CostModel& model, uint32_t layers, double clock) {
  Compiler compiler(step, shape, model, clock);
  std::vector<SimProgram> programs;
  for (uint32_t gpu = 0; gpu < step.gpus.size(); ++gpu) {
    programs.push_back(compiler.compile(gpu, layers));
  }
  return programs;
}

uint32_t num_objects(const std::vector<SimProgram>& programs) {
  uint32_t count = 0;
  for (const SimProgram& program : programs) {
    for (const SimInstruction& instruction : program.code) {
      for (const SimOperand& operand : instruction.operands) {
        count = operand.object == kNoObject ? count : std::max(count, operand.object + 1);
      }
      count = instruction.output == kNoObject ? count : std::max(count, instruction.output + 1);
    }
  }
  return count;
}

}  // namespace terrazzo
