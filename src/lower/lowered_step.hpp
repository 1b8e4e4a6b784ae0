// A step as programs (one a GPU) and the tables that their instructions look up.
#pragma once

#include <cstdint>
#include <vector>

#include "lower/counter_map.hpp"
#include "terrazzo/core/program.hpp"
#include "terrazzo/core/step_tables.hpp"

namespace terrazzo {

enum class Segment : uint32_t { kPrologue, kBody, kEpilogue, kCount };
inline constexpr uint32_t kNumSegments = static_cast<uint32_t>(Segment::kCount);

struct GpuProgram {
  std::vector<Instruction> segments[kNumSegments];

  std::vector<Instruction>& segment(Segment which) {
    return segments[static_cast<uint32_t>(which)];
  }
  const std::vector<Instruction>& segment(Segment which) const {
    return segments[static_cast<uint32_t>(which)];
  }
};

struct LoweredStep {
  std::vector<GpuProgram> gpus;
  std::vector<RowInfo> rows;
  std::vector<LogitInfo> logit_rows;
  std::vector<uint32_t> page_ids;
  CounterMap counters;  // of one block
  uint32_t num_layers = 0;
  uint32_t num_logits_slots = 0;   // slots of kLogits in use
  uint32_t num_wanted_logits = 0;  // the first of them: rows whose logits are returned, in order

  uint32_t counters_per_block() const { return counters.size(); }

  ProgramView view(uint32_t gpu) const {
    const auto& [prologue, body, epilogue] = gpus[gpu].segments;
    return {prologue.data(),
            body.data(),
            epilogue.data(),
            static_cast<uint32_t>(prologue.size()),
            static_cast<uint32_t>(body.size()),
            static_cast<uint32_t>(epilogue.size()),
            num_layers,
            counters_per_block()};
  }

  StepTables tables() const {
    return {rows.data(), logit_rows.data(), page_ids.data(), static_cast<uint32_t>(rows.size()),
            static_cast<uint32_t>(logit_rows.size())};
  }
};

}  // namespace terrazzo
