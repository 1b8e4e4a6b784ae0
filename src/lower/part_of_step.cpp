#include "lower/part_of_step.hpp"

#include <algorithm>
#include <string>

#include "lower/brief_runs.hpp"
#include "terrazzo/core/check.hpp"

namespace terrazzo {

Opcode opcode_named(std::string_view name) {
  std::string known;
  for (uint32_t i = 0; i < kNumOpcodes; ++i) {
    if (name == kOpcodeNames[i]) {
      return static_cast<Opcode>(i);
    }
    known += (i == 0 ? "" : ", ") + std::string(kOpcodeNames[i]);
  }
  fail("instruction", "expected one of ", known, ", got ", name);
}

void keep_only(LoweredStep& step, std::span<const Opcode> opcodes) {
  const auto is_dropped = [&](const Instruction& instruction) {
    return instruction.opcode != Opcode::kStepEnd &&
           std::find(opcodes.begin(), opcodes.end(), instruction.opcode) == opcodes.end();
  };
  for (GpuProgram& program : step.gpus) {
    for (auto& segment : program.segments) {
      std::erase_if(segment, is_dropped);
      for (Instruction& instruction : segment) {
        for (Wait& wait : instruction.waits) {
          wait = {};
        }
      }
    }
  }
}

LoweredStep empty_step(uint32_t count, const ModelShape& shape) {
  LoweredStep step;
  step.num_layers = shape.num_layers;
  step.counters = CounterMap(1, shape.local_kv_heads(), 0, 0);
  step.gpus.resize(1);
  Instruction nothing{};
  nothing.opcode = Opcode::kEmbed;
  step.gpus[0].segment(Segment::kPrologue).assign(count, nothing);
  Instruction end{};
  end.opcode = Opcode::kStepEnd;
  step.gpus[0].segment(Segment::kEpilogue).push_back(end);
  mark_brief_runs(step);
  return step;
}

std::array<uint64_t, kNumOpcodes> count_instructions(const LoweredStep& step, uint32_t gpu) {
  std::array<uint64_t, kNumOpcodes> counts{};
  for (uint32_t i = 0; i < kNumSegments; ++i) {
    const bool is_body = static_cast<Segment>(i) == Segment::kBody;
    for (const Instruction& instruction : step.gpus[gpu].segments[i]) {
      // A body instruction that is ahead by some layers is passed over in as many of the last ones.
      counts[static_cast<uint32_t>(instruction.opcode)] +=
          is_body ? step.num_layers - instruction.layer_offset : 1;
    }
  }
  return counts;
}

}  // namespace terrazzo
