#include "lower/share_of_step.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace terrazzo {
namespace {

constexpr uint32_t kStorers = 2;  // each signals

/// Calls f(instruction, layer) for all that a program runs.
template <class F>
void for_each_run(LoweredStep& step, F f) {
  const auto layers = static_cast<int32_t>(step.num_layers);
  for (Instruction& instruction : step.gpus[0].segment(Segment::kPrologue)) {
    f(instruction, instruction.layer_offset - 1);
  }
  for (Instruction& instruction : step.gpus[0].segment(Segment::kBody)) {
    for (int32_t layer = instruction.layer_offset; layer < layers; ++layer) {
      f(instruction, layer);
    }
  }
  for (Instruction& instruction : step.gpus[0].segment(Segment::kEpilogue)) {
    f(instruction, layers);
  }
}

}  // namespace

void keep_share(LoweredStep& step, uint32_t gpu) {
  std::swap(step.gpus[0], step.gpus[gpu]);
  step.gpus.resize(1);
  const auto own = static_cast<uint8_t>(1u << gpu);
  const uint32_t each = step.counters_per_block();
  std::vector<uint32_t> totals(uint64_t{each} * (step.num_layers + 2));
  for (auto& segment : step.gpus[0].segments) {
    for (Instruction& instruction : segment) {
      for (Signal& signal : instruction.signals) {
        signal.gpus &= own;
      }
    }
  }
  for_each_run(step, [&](const Instruction& instruction, int32_t layer) {
    for (const Signal& signal : instruction.signals) {
      for (uint32_t i = 0; signal.gpus != 0 && i < signal.count; ++i) {
        totals[counter_index(each, layer, signal.first) + i] += kStorers * signal.increment;
      }
    }
  });
  for_each_run(step, [&](Instruction& instruction, int32_t layer) {
    for (Wait& wait : instruction.waits) {
      for (uint32_t i = 0; i < wait.count; ++i) {
        wait.target = std::min(wait.target, totals[counter_index(each, layer, wait.first) + i]);
      }
    }
  });
}

}  // namespace terrazzo
