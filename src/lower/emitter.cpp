#include "lower/emitter.hpp"

#include <algorithm>

#include "terrazzo/core/check.hpp"
#include "terrazzo/core/geometry.hpp"

namespace terrazzo {
namespace {

constexpr uint32_t kMaxIncrement = 255;

// Copied with wide moves; a fresh `Instruction{}` is cleared by `rep stos`, a fifth of a lowering.
constinit const Instruction kBlank{};

}  // namespace

Emitter::Emitter(LoweredStep& step, uint32_t world)
    : step_(step),
      world_(world),
      block_(step.counters.size()),
      sums_(static_cast<size_t>(world) * kNumSegments * block_) {
  step.gpus.resize(world);
  for (GpuProgram& program : step.gpus) {
    for (auto& segment : program.segments) {
      segment.clear();
    }
  }
}

void Emitter::select(uint32_t gpu, Segment segment) {
  gpu_ = gpu;
  segment_ = segment;
  // All GPUs have about as much to do as the first.
  step_.gpus[gpu].segment(segment).reserve(step_.gpus[0].segment(segment).size() * 9 / 8);
}

Instruction& Emitter::emit(Opcode opcode, uint8_t flags) {
  std::vector<Instruction>& segment = step_.gpus[gpu_].segment(segment_);
  segment.push_back(kBlank);
  Instruction& instruction = segment.back();
  instruction.opcode = opcode;
  instruction.flags = flags;
  return instruction;
}

void Emitter::wait(Instruction& instruction, int32_t first, uint32_t count) const {
  for (Wait& wait : instruction.waits) {
    if (wait.count == 0) {
      wait.first = first;
      wait.count = static_cast<uint16_t>(count);
      return;
    }
  }
  check(false, "lower", opcode_name(instruction.opcode), ": expected at most ", kNumWaits,
        " waits");
}

void Emitter::signal(Instruction& instruction, int32_t counter, uint32_t increment, uint32_t gpus) {
  for (Signal& signal : instruction.signals) {
    if (signal.count != 0 || increment == 0) {
      continue;
    }
    const uint32_t part = std::min(increment, kMaxIncrement);
    signal = {counter, 1, static_cast<uint8_t>(part), static_cast<uint8_t>(gpus)};
    for (uint32_t gpu = 0; gpu < world_; ++gpu) {
      if (gpus >> gpu & 1) {
        sum(gpu, segment_, static_cast<uint32_t>(counter)) +=
            kNumConsumers * part;  // one storer each
      }
    }
    increment -= part;
  }
  check(increment == 0, "lower", opcode_name(instruction.opcode), ": expected at most ",
        kNumSignals, " signals of at most ", kMaxIncrement);
}

uint32_t Emitter::target_of(uint32_t gpu, Segment segment, int32_t counter) {
  if (counter >= 0) {
    return sum(gpu, segment, static_cast<uint32_t>(counter));
  }
  const uint32_t previous = static_cast<uint32_t>(counter + static_cast<int32_t>(block_));
  const uint32_t target = sum(gpu, Segment::kBody, previous);
  // The first layer's previous block is the prologue's.
  if (segment == Segment::kBody && sum(gpu, Segment::kPrologue, previous) != target) {
    check(false, "lower", step_.counters.name(previous), ": expected ", target,
          " from the prologue too, got ", sum(gpu, Segment::kPrologue, previous));
  }
  return target;
}

void Emitter::set_targets() {
  for (uint32_t gpu = 0; gpu < world_; ++gpu) {
    for (uint32_t i = 0; i < kNumSegments; ++i) {
      const auto segment = static_cast<Segment>(i);
      for (Instruction& instruction : step_.gpus[gpu].segment(segment)) {
        for (Wait& wait : instruction.waits) {
          if (wait.count == 0) {
            continue;
          }
          wait.target = target_of(gpu, segment, wait.first);
          for (int32_t j = 1; j < wait.count; ++j) {
            const uint32_t other = target_of(gpu, segment, wait.first + j);
            check(other == wait.target, "lower", opcode_name(instruction.opcode),
                  ": expected equal sums in a run of counters, got ", wait.target, " and ", other);
          }
        }
      }
    }
  }
}

}  // namespace terrazzo
