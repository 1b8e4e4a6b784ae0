#include "simulate/estimate.hpp"

#include <algorithm>
#include <cmath>

#include "simulate/simulator.hpp"

namespace terrazzo {
namespace {

constexpr uint32_t kFewLayers = 2;   // simulated to see the step's ends
constexpr uint32_t kMoreLayers = 4;  // and, with these, what one more layer takes
constexpr uint32_t kMostTries = 5;
constexpr double kExact = 0.005;  // of a clock
constexpr double kLeastClock = 0.3;

/// The clock at which a step of these averages takes all the power: a FLOP takes energy by the
/// square of the clock, since voltage follows it; a byte always the same.
double clock_for(const StepEstimate& step, const CostModel& model) {
  const double tflops = step.tensor_flops / step.step_ns * 1e-3;
  const double tbps = step.hbm_bytes / step.step_ns * 1e-3;
  const double left = model.power_tflops - model.power_tflops_per_hbm_tbps * tbps;
  return std::clamp(std::sqrt(std::max(left, 0.0) / std::max(tflops, 1e-9)), kLeastClock, 1.0);
}

}  // namespace

StepEstimate estimate_at(const LoweredStep& step, const ModelShape& shape, const CostModel& model,
                         uint32_t num_sms, double clock) {
  const auto simulated = [&](uint32_t layers) {
    const SimResult result =
        simulate(step, shape, model, {.num_sms = num_sms, .layers = layers, .clock = clock});
    StepEstimate sums{result.step_ns, clock};
    for (const SimTotals& gpu : result.totals) {
      sums.tensor_flops += gpu.tensor_flops / static_cast<double>(result.totals.size());
      sums.hbm_bytes += gpu.hbm_bytes / static_cast<double>(result.totals.size());
    }
    return sums;
  };
  if (step.num_layers <= kMoreLayers) {
    return simulated(step.num_layers);
  }
  const StepEstimate few = simulated(kFewLayers);
  const StepEstimate more = simulated(kMoreLayers);
  const double times = double(step.num_layers - kFewLayers) / (kMoreLayers - kFewLayers);
  const auto continued = [&](double StepEstimate::* member) {
    return few.*member + times * (more.*member - few.*member);
  };
  return {continued(&StepEstimate::step_ns), clock, continued(&StepEstimate::tensor_flops),
          continued(&StepEstimate::hbm_bytes)};
}

StepEstimate estimate(const LoweredStep& step, const ModelShape& shape, const CostModel& model,
                      uint32_t num_sms, double guess) {
  if (model.power_tflops == 0) {
    return estimate_at(step, shape, model, num_sms, 1);
  }
  StepEstimate found = estimate_at(step, shape, model, num_sms, guess);
  for (uint32_t tries = 0; tries < kMostTries; ++tries) {
    const double wanted = clock_for(found, model);
    if (std::abs(wanted - found.clock) < kExact) {
      break;
    }
    // A slower clock makes a longer step of less power: the truth is between.
    found = estimate_at(step, shape, model, num_sms, (wanted + found.clock) / 2);
  }
  return found;
}

}  // namespace terrazzo
