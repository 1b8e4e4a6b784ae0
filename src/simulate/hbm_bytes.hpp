// Which bytes came from HBM, for traces of machines that do not say.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lower/lowered_step.hpp"
#include "simulate/cost_model.hpp"

namespace terrazzo {

/// Bytes from HBM of a GPU's instructions, given their queue positions in the order in which they
/// were loaded: what the simulator's L2 would not have held.
std::vector<double> hbm_bytes(const LoweredStep& step, const ModelShape& shape,
                              const CostModel& model, uint32_t gpu,
                              std::span<const uint32_t> positions);

}  // namespace terrazzo
