#include "lower/verifier.hpp"

#include <algorithm>
#include <utility>

#include "lower/lower.hpp"
#include "lower/operands.hpp"
#include "lower/shadow.hpp"

namespace terrazzo {
namespace {

uint32_t num_layers_to_verify(const LoweredStep& step, uint32_t max_layers) {
  uint32_t offset = 0;
  for (const GpuProgram& program : step.gpus) {
    for (const Instruction& instruction : program.segment(Segment::kBody)) {
      offset = std::max<uint32_t>(offset, instruction.layer_offset);
    }
  }
  return std::min(step.num_layers, std::max(max_layers, 1u) + offset);
}

std::vector<Problem> check_operands(const LoweredStep& step, const ModelShape& shape,
                                    const StepLimits& limits, uint32_t max_problems) {
  const std::string tables = table_problem(step, shape, limits);
  if (!tables.empty()) {
    return {{ProblemKind::kTables, tables}};
  }
  std::vector<Problem> problems;
  for (uint32_t gpu = 0; gpu < step.gpus.size(); ++gpu) {
    for (uint32_t s = 0; s < kNumSegments; ++s) {
      const auto& instructions = step.gpus[gpu].segments[s];
      for (size_t i = 0; i < instructions.size() && problems.size() < max_problems; ++i) {
        const std::string problem =
            operand_problem(instructions[i], gpu, static_cast<Segment>(s), step, shape, limits);
        if (!problem.empty()) {
          constexpr const char* kSegmentNames[kNumSegments] = {"prologue", "body", "epilogue"};
          problems.push_back(
              {ProblemKind::kOperands, "gpu " + std::to_string(gpu) + ", " + kSegmentNames[s] +
                                           " " + std::to_string(i) + " (" +
                                           opcode_name(instructions[i].opcode) + "): " + problem});
        }
      }
    }
  }
  return problems;
}

/// Every instruction is complete before its GPU's only step_end, the last of its queue.
std::vector<Problem> check_end(const HappensBefore& order, uint32_t world, uint32_t max_problems) {
  const auto& nodes = order.nodes();
  std::vector<Problem> problems;
  uint32_t first = 0;
  for (uint32_t gpu = 0; gpu < world; ++gpu) {
    uint32_t last = first;
    while (last + 1 < nodes.size() && nodes[last + 1].gpu == gpu) {
      ++last;
    }
    const auto is_end = [&](uint32_t node) {
      return nodes[node].place.instruction->opcode == Opcode::kStepEnd;
    };
    for (uint32_t node = first; node <= last && problems.size() < max_problems; ++node) {
      if (is_end(node) != (node == last)) {
        problems.push_back({ProblemKind::kEnd,
                            order.describe(node) + ": expected one step_end, at the queue's end"});
      } else if (node != last && !nodes[node].place.skip && !order.before(node, last)) {
        problems.push_back(
            {ProblemKind::kEnd, order.describe(node) + " may still run when step_end signals"});
      }
    }
    first = last + 1;
  }
  return problems;
}

}  // namespace

std::vector<Problem> verify(const LoweredStep& step, const ModelShape& shape,
                            const StepLimits& limits, const VerifyOptions& options) {
  std::vector<Problem> problems = check_operands(step, shape, limits, options.max_problems);
  if (!problems.empty()) {
    return problems;
  }
  if (step.counters_per_block() > max_counters_per_block(shape, limits)) {
    return {{ProblemKind::kTables, "counters of a block: expected at most " +
                                       std::to_string(max_counters_per_block(shape, limits)) +
                                       ", got " + std::to_string(step.counters_per_block())}};
  }
  for (const GpuProgram& program : step.gpus) {
    if (program.segment(Segment::kEpilogue).empty()) {
      return {{ProblemKind::kEnd, "expected a step_end in every epilogue"}};
    }
  }
  const uint32_t layers = num_layers_to_verify(step, options.max_layers);
  const HappensBefore order(step, layers, options.max_problems);
  if (!order.problems().empty()) {
    return order.problems();  // without an order there is nothing more to say
  }
  problems = check_end(order, shape.world, options.max_problems);
  const auto room = options.max_problems - static_cast<uint32_t>(problems.size());
  if (room > 0) {
    Shadow shadow(step, shape, limits, order, layers,
                  std::min(options.sampled_rows, limits.max_sequences));
    for (Problem& problem : shadow.run(room)) {
      problems.push_back(std::move(problem));
    }
  }
  return problems;
}

std::vector<Problem> verify_pair(const LoweredStep& first, const LoweredStep& second,
                                 const ModelShape& shape, const StepLimits& limits,
                                 const VerifyOptions& options) {
  std::vector<Problem> problems = verify(first, shape, limits, options);
  VerifyOptions after = options;
  after.sampled_rows = static_cast<uint32_t>(first.logit_rows.size());
  for (Problem& problem : verify(second, shape, limits, after)) {
    problems.push_back(std::move(problem));
  }
  return problems;
}

std::string to_string(const std::vector<Problem>& problems) {
  std::string text;
  for (const Problem& problem : problems) {
    text += problem.text + "\n";
  }
  return text;
}

}  // namespace terrazzo
