// A model on the host machine: weights, tables, and steps from request to sampled tokens.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "lower/step_request.hpp"
#include "lower/weave.hpp"
#include "machine/host/host_machine.hpp"
#include "machine/packed_model.hpp"
#include "machine/step_outputs.hpp"

namespace terrazzo::host {

class HostModel {
 public:
  HostModel(const ModelShape& shape, const StepLimits& limits, const HostOptions& options);
  HostModel(const HostModel&) = delete;
  HostModel& operator=(const HostModel&) = delete;

  const ModelShape& shape() const { return machine_.shape(); }
  const StepLimits& limits() const { return machine_.limits(); }
  HostMachine& machine() { return machine_; }
  PackedModel& weights(uint32_t gpu);

  /// embedding: [vocab, hidden]; final_norm: [hidden]; rope: [max_position, head_dim].
  void set_tables(const SourceMatrix& embedding, std::span<const bf16> final_norm,
                  std::span<const float> rope);

  /// Throws Error if another thread's step is running. `order`: of the queue; no bit depends on it.
  StepOutputs step(const StepRequest& request, const WeavePlan& order = {});
  StepOutputs step_checked(const StepRequest& request, const CheckOptions& options,
                           const WeavePlan& order = {});
  std::vector<std::string> verify(const StepRequest& request, const WeavePlan& order = {}) const;

 private:
  /// One step, from request to outputs; `run(step)` launches it.
  template <class Run>
  StepOutputs run_step(const StepRequest& request, const WeavePlan& order, Run run);
  void lower_step(const StepRequest& request, const WeavePlan& order);
  void collect();

  HostMachine machine_;
  HostOptions options_;
  std::vector<PackedModel> weights_;
  SharedTables tables_;
  LoweredStep step_;
  StepOutputs outputs_;
  std::atomic_flag busy_;
};

}  // namespace terrazzo::host
