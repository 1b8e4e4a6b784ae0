// Chooses a step's order by simulation, once for each class of steps.
#pragma once

#include <cstdint>
#include <map>
#include <tuple>

#include "lower/lower.hpp"
#include "simulate/cost_model.hpp"
#include "simulate/estimate.hpp"

namespace terrazzo {

/// An order and what the simulator says about it.
struct PlannedOrder {
  WeavePlan plan;
  double plain_ns = 0;  // of the whole step in the plain order
  double best_ns = 0;   // in the order that was chosen: never more
};

/// Attention as it was issued where the other work had to wait, and otherwise on about
/// `streaming_sms` SMs: what a list scheduler does that knows when each instruction can start.
WeavePlan greedy_plan(const StepRequest& request, const ModelShape& shape, const StepLimits& limits,
                      const LowerOptions& options, const CostModel& model, uint32_t split_block,
                      uint32_t streaming_sms);

/// Keeps the orders of the classes of steps that it has seen. Not for use by several threads at a
/// time.
class WeavePlanner {
 public:
  WeavePlanner(const ModelShape& shape, const StepLimits& limits, const LowerOptions& options,
               const CostModel& model);

  /// The order for a step of this class: known, or found now (which takes many simulations of a few
  /// layers).
  const PlannedOrder& plan(const StepRequest& request);
  size_t num_classes() const { return orders_.size(); }

 private:
  /// Row blocks, prompt rows in row blocks, KV pages and logit rows in steps of an eighth.
  using Key = std::tuple<uint32_t, uint32_t, uint32_t, uint32_t>;
  static Key key_of(const StepRequest& request);
  PlannedOrder search(const StepRequest& request) const;
  StepEstimate time_of(const StepRequest& request, const WeavePlan& plan, double clock = 0) const;

  ModelShape shape_;
  StepLimits limits_;
  LowerOptions options_;
  CostModel model_;
  std::map<Key, PlannedOrder> orders_;
};

}  // namespace terrazzo
