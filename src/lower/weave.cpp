#include "lower/weave.hpp"

#include <algorithm>
#include <initializer_list>
#include <utility>
#include <vector>

#include "terrazzo/core/check.hpp"
#include "terrazzo/core/geometry.hpp"

namespace terrazzo {
namespace {

enum class Stage : uint32_t { kQkv, kAttention, kRest };
constexpr uint32_t kNumParts = 2;
constexpr uint32_t kNumStages = 3;

Stage stage_of(Opcode opcode) {
  switch (opcode) {
    case Opcode::kQkvRopeAppend:
      return Stage::kQkv;
    case Opcode::kAttendPrefill:
    case Opcode::kAttendDecode:
    case Opcode::kAttendMerge:
      return Stage::kAttention;
    default:
      return Stage::kRest;
  }
}

uint32_t row_block_of(const Instruction& instruction) {
  switch (instruction.opcode) {
    case Opcode::kAttendPrefill:
      return instruction.args.attend_prefill.row_block;
    case Opcode::kAttendDecode:
      return instruction.args.attend_decode.row / kRowBlock;
    case Opcode::kAttendMerge:
      return instruction.args.attend_merge.row / kRowBlock;
    case Opcode::kReduceResidual:
    case Opcode::kReduceO:
      return instruction.args.reduce.row_block;
    default:
      return instruction.args.gemm.row_block;
  }
}

/// About how long an instruction keeps an SM, among those of its own stage.
double weight_of(const Instruction& instruction) {
  switch (instruction.opcode) {
    case Opcode::kAttendPrefill:
    case Opcode::kAttendDecode:
    case Opcode::kAttendMerge:
    case Opcode::kReduceResidual:
    case Opcode::kReduceO:
      return 1;
    default:
      return double{1} * instruction.args.gemm.panels * instruction.args.gemm.k_panels;
  }
}

/// Instructions of one part and stage, in the plain order.
using Items = std::vector<const Instruction*>;

/// One GPU's body by part and stage.
class Parts {
 public:
  Parts(const std::vector<Instruction>& body, uint32_t split_block) {
    for (const Instruction& instruction : body) {
      const uint32_t part = row_block_of(instruction) >= split_block ? 1 : 0;
      items_[part][static_cast<uint32_t>(stage_of(instruction.opcode))].push_back(&instruction);
    }
  }
  const Items& of(uint32_t part, Stage stage) const {
    return items_[part][static_cast<uint32_t>(stage)];
  }

 private:
  Items items_[kNumParts][kNumStages];
};

double total_weight(const Items& items) {
  double total = 0;
  for (const Instruction* instruction : items) {
    total += weight_of(*instruction);
  }
  return total;
}

/// A list with the layer offset that its instructions get.
struct Offset {
  const Items* items;
  uint8_t layers;
};

void append(std::vector<Instruction>& out, const Instruction& instruction, uint8_t layers) {
  out.push_back(instruction);
  out.back().layer_offset = layers;
}

/// Deals `attention` over the other lists as the curve says.
void deal(std::vector<Instruction>& out, const Offset& attention,
          std::initializer_list<Offset> others, const WeaveCurve& curve) {
  double whole = 0;
  for (const Offset& list : others) {
    whole += total_weight(*list.items);
  }
  const auto count = static_cast<double>(attention.items->size());
  double done = 0;
  size_t next = 0;
  for (const Offset& list : others) {
    for (const Instruction* instruction : *list.items) {
      const double place = done / whole * static_cast<double>(curve.size() - 1);
      const auto knot = std::min(static_cast<size_t>(place), curve.size() - 2);
      const double part = place - static_cast<double>(knot);
      const double due = count / 100 * (curve[knot] + part * (curve[knot + 1] - curve[knot]));
      while (next < attention.items->size() && static_cast<double>(next) + 0.5 < due) {
        append(out, *(*attention.items)[next++], attention.layers);
      }
      append(out, *instruction, list.layers);
      done += weight_of(*instruction);
    }
  }
  for (; next < attention.items->size(); ++next) {
    append(out, *(*attention.items)[next], attention.layers);
  }
}

void weave(GpuProgram& program, const WeavePlan& plan) {
  std::vector<Instruction>& body = program.segment(Segment::kBody);
  std::vector<Instruction>& prologue = program.segment(Segment::kPrologue);
  const Parts parts(body, plan.split_block);
  constexpr uint32_t kA = 0;
  constexpr uint32_t kB = 1;
  const auto list = [&](uint32_t part, Stage stage, uint8_t layers) {
    return Offset{&parts.of(part, stage), layers};
  };
  for (const Instruction* instruction : parts.of(kA, Stage::kQkv)) {
    append(prologue, *instruction, 1);
  }
  deal(prologue, list(kA, Stage::kAttention, 1), {list(kB, Stage::kQkv, 1)}, even_curve(100));
  std::vector<Instruction> woven;
  woven.reserve(body.size());
  deal(woven, list(kB, Stage::kAttention, 0), {list(kA, Stage::kRest, 0), list(kA, Stage::kQkv, 1)},
       plan.curves[0]);
  deal(woven, list(kA, Stage::kAttention, 1), {list(kB, Stage::kRest, 0), list(kB, Stage::kQkv, 1)},
       plan.curves[1]);
  body = std::move(woven);
}

}  // namespace

void weave(LoweredStep& step, const WeavePlan& plan) {
  if (plan.split_block == 0) {
    return;
  }
  const auto blocks = ceil_div(static_cast<uint32_t>(step.rows.size()), kRowBlock);
  check(plan.split_block < blocks, "weave", "expected a split below ", blocks, " row blocks, got ",
        plan.split_block);
  for (GpuProgram& program : step.gpus) {
    weave(program, plan);
  }
}

std::array<WeaveHalf, 2> weave_halves(const GpuProgram& woven, uint32_t split_block) {
  std::array<WeaveHalf, 2> halves;
  const std::vector<Instruction>& body = woven.segment(Segment::kBody);
  for (uint32_t i = 0; i < body.size(); ++i) {
    const uint32_t part = row_block_of(body[i]) >= split_block ? 1 : 0;
    if (stage_of(body[i].opcode) == Stage::kAttention) {
      halves[1 - part].attention.push_back(i);  // attention of B comes first
    } else {
      halves[part].others.push_back(i);
      halves[part].weights.push_back(weight_of(body[i]));
    }
  }
  return halves;
}

}  // namespace terrazzo
