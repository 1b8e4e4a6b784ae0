#include "lower/emitter.hpp"

namespace terrazzo {

constinit const Instruction Emitter::kBlank{};

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
  select(0, Segment::kPrologue);
}

void Emitter::select(uint32_t gpu, Segment segment) {
  gpu_ = gpu;
  segment_ = segment;
  program_ = &step_.gpus[gpu].segment(segment);
  sums_here_ = &sum(gpu, segment, 0);
  // All GPUs have about as much to do as the first; more phases may follow.
  const size_t first_has = step_.gpus[0].segment(segment).size();
  if (program_->capacity() < first_has * 9 / 8) {
    program_->reserve(first_has * 4);
  }
}

void Emitter::check_targets() const {
  for (size_t i = 0; i < sums_.size(); ++i) {
    const auto [signalled, waited_for] = sums_[i];
    if (waited_for == 0) {
      continue;
    }
    const auto name = [&] { return step_.counters.name(static_cast<uint32_t>(i % block_)); };
    if (waited_for != signalled) [[unlikely]] {
      fail("lower", name(), ": a wait found a sum of ", waited_for, ", later it was ", signalled);
    }
    // The prologue's counters are waited for by the body: in its first layer; later it waits for
    // its own.
    const bool in_prologue = i / block_ % kNumSegments == 0;
    if (in_prologue && sums_[i + block_].signalled != waited_for) [[unlikely]] {
      fail("lower", name(), ": expected ", sums_[i + block_].signalled,
           " from the prologue too, got ", waited_for);
    }
  }
}

void Emitter::fail_unequal(const Instruction& instruction, uint32_t expected, uint32_t seen) {
  fail("lower", opcode_name(instruction.opcode),
       ": expected equal sums above 0 in a run of counters, got ", expected, " and ", seen);
}

void Emitter::fail_full(const Instruction& instruction, const char* what) {
  fail("lower", opcode_name(instruction.opcode), ": no room for more ", what);
}

}  // namespace terrazzo
