// A step's time from a few of its layers, and the clock that its power leaves to the SMs.
#pragma once

#include <cstdint>

#include "lower/lowered_step.hpp"
#include "simulate/cost_model.hpp"

namespace terrazzo {

struct StepEstimate {
  double step_ns = 0;
  double clock = 1;         // of the SMs, in parts of their highest
  double tensor_flops = 0;  // of one GPU, on average
  double hbm_bytes = 0;
};

/// Simulates few layers and continues from these. The clock follows power over many steps, so it is
/// one number for all of a step: what `CostModel::power_tflops` allows for the step's averages.
/// The search begins at `guess`, the sooner to end. `num_sms` 0: as many as the model says.
StepEstimate estimate(const LoweredStep& step, const ModelShape& shape, const CostModel& model,
                      uint32_t num_sms = 0, double guess = 1);

/// The same at a given clock.
StepEstimate estimate_at(const LoweredStep& step, const ModelShape& shape, const CostModel& model,
                         uint32_t num_sms, double clock);

}  // namespace terrazzo
