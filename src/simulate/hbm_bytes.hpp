// Which bytes came from HBM, for traces of machines that do not say.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lower/lowered_step.hpp"
#include "simulate/cost_model.hpp"

namespace terrazzo {

/// When a loader copied for the instruction at a queue position.
struct LoadTime {
  uint32_t position;
  double begin_ns;
  double end_ns;
};

/// Bytes from HBM of a GPU's instructions, given in the order of their begins: what the simulator's
/// L2 would not have held.
std::vector<double> hbm_bytes(const LoweredStep& step, const ModelShape& shape,
                              const CostModel& model, uint32_t gpu,
                              std::span<const LoadTime> loads);

}  // namespace terrazzo
