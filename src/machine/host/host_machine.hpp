// The host machine: virtual GPUs with virtual SMs on this computer's cores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "lower/lowered_step.hpp"
#include "machine/host/scheduler.hpp"
#include "machine/machine_error.hpp"
#include "terrazzo/vm/params.hpp"

namespace terrazzo::host {

struct HostOptions {
  uint32_t num_sms = 2;      // of each virtual GPU
  uint32_t num_threads = 0;  // 0: one an SM
  uint64_t watchdog_ns = 10'000'000'000;
};

/// A launch that did not come to its end: what was seen, and who was blocked.
class LaunchError : public MachineError {
 public:
  LaunchError(FailureKind kind, const std::string& message, std::vector<BlockedRole> blocked)
      : MachineError(message), kind(kind), blocked(std::move(blocked)) {}

  FailureKind kind;
  std::vector<BlockedRole> blocked;
};

/// Owns the heaps of `shape.world` virtual GPUs. Weights stay with the caller. One step at a time.
class HostMachine {
 public:
  HostMachine(const ModelShape& shape, const StepLimits& limits, const HostOptions& options);
  ~HostMachine();

  const ModelShape& shape() const { return shape_; }
  const StepLimits& limits() const { return limits_; }
  const HeapLayout& layout() const { return layout_; }
  std::byte* heap(uint32_t gpu) { return heaps_[gpu].get(); }

  /// The weights that GPU `gpu` reads; they must outlive the machine's steps.
  void set_model(uint32_t gpu, const ModelView& model) { models_[gpu] = model; }

  /// Runs a step on threads, for speed. Throws LaunchError.
  void run(const LoweredStep& step);

  /// Runs a step under the adversary: every role a fiber of this thread, copies that land when the
  /// seed says, every access checked. Throws LaunchError.
  void run_checked(const LoweredStep& step, const CheckOptions& options,
                   AccessObserver observer = {});

  /// Events of the next steps, until called with false; `events()` returns those of the last step.
  void set_trace(bool enabled) { trace_ = enabled; }
  const std::vector<TraceEvent>& events() const { return events_; }

  /// The SM, role, instruction and layer of an agent in access observations of the last checked
  /// launch.
  const Role& agent(uint32_t agent) const;

  /// Sampled tokens and logits of the last step, as GPU 0 and the owners hold them.
  const SampledToken* sampled() const;
  const float* logits(uint32_t owner, uint32_t slot, uint32_t gpu) const;

 private:
  struct AlignedDelete {
    void operator()(std::byte* pointer) const;
  };
  using Heap = std::unique_ptr<std::byte[], AlignedDelete>;

  StepParams params_of(const LoweredStep& step, uint32_t gpu) const;
  void prepare(const LoweredStep& step, Launch& launch, Checker* checker, CopyQueue* copies);
  /// Collects the events; throws LaunchError if the launch failed.
  void finish(const LoweredStep& step, const Launch& launch);

  ModelShape shape_;
  StepLimits limits_;
  HostOptions options_;
  HeapLayout layout_;
  std::vector<Heap> heaps_;
  std::vector<ModelView> models_;
  std::vector<std::unique_ptr<Sm>> sms_;  // [gpu][sm]
  std::vector<StepParams> params_;        // of the step in progress, by GPU
  std::vector<HeapShadow> shadows_;       // made at the first checked run
  uint32_t checked_launches_ = 0;
  bool ran_unchecked_ = false;  // since the last checked run
  uint32_t bank_ = 0;
  bool trace_ = false;
  std::vector<std::vector<TraceEvent>> sm_events_;
  std::vector<TraceEvent> events_;
};

}  // namespace terrazzo::host
