// A model on the CUDA machine: weights, tables, and steps from request to sampled tokens. Needs no
// CUDA header; no_cuda.cpp stands in for it where it is not built.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "lower/step_request.hpp"
#include "lower/weave.hpp"
#include "machine/packed_model.hpp"
#include "machine/step_outputs.hpp"
#include "terrazzo/core/isa.hpp"
#include "terrazzo/core/trace_event.hpp"

namespace terrazzo::cuda {

struct CudaModelOptions {
  uint32_t num_sms = 0;  // of a rank; 0: its share of its GPU's but `reserve_sms`
  uint32_t reserve_sms = 0;
  uint64_t watchdog_ns = 10'000'000'000;
  uint64_t stream = 0;        // handle of the stream that runs the steps; 0: one of its own
  uint32_t trace_events = 0;  // most events kept of a rank's step; 0: no trace
  uint32_t ranks_per_gpu = 1;
};

/// Random sleeps of all ranks, for tests; see sm90::DelayPlan.
struct DelayOptions {
  uint32_t seed;
  uint32_t most_ns;
};

/// How a step's launches are timed.
struct TimingOptions {
  uint32_t repeats = 5;     // after one that does not count
  bool sweep_cache = true;  // other bytes go through the L2 before each launch
  uint32_t layers = 0;      // run so many of the model's layers; 0: all
};

/// On `shape.world` GPUs, or on fewer with several ranks each. Steps run in order of submission.
/// One thread may submit while another collects.
class CudaModel {
 public:
  static constexpr uint32_t kMaxInFlight = 2;

  CudaModel(const ModelShape& shape, const StepLimits& limits, const CudaModelOptions& options);
  CudaModel(const CudaModel&) = delete;
  CudaModel& operator=(const CudaModel&) = delete;
  ~CudaModel();

  const ModelShape& shape() const { return shape_; }
  const StepLimits& limits() const { return limits_; }
  uint32_t num_sms() const;
  void set_watchdog_ns(uint64_t limit);
  void set_delays(const DelayOptions& delays);

  /// As PackedModel::pack_rows, straight into the memory of `rank`; threads may call it at once for
  /// different rows.
  void pack_rows(uint32_t rank, const RowMove& move, const SourceMatrix& source);

  /// The same of a source that repeats; its rows are made on the device.
  void pack_repeated(uint32_t rank, const RowMove& move, const RepeatedMatrix& source);

  /// The last part of loading, to all ranks. embedding: [vocab, hidden]; final_norm: [hidden];
  /// rope: [max_position, head_dim].
  void set_tables(const SourceMatrix& embedding, std::span<const bf16> final_norm,
                  std::span<const float> rope);

  /// The same with an embedding that repeats.
  void set_tables(const RepeatedMatrix& embedding, std::span<const bf16> final_norm,
                  std::span<const float> rope);

  /// Ends the loading in its own way: random weights, tables and KV pages, made on the device. For
  /// measurements: padding is random too.
  void fill_random(uint64_t seed);

  /// Prepares and queues a step and gives its number. Throws `Error` if it is refused or
  /// kMaxInFlight steps wait to be collected; then nothing is queued. Throws MachineError if a
  /// launch failed: as for `collect`. `order`: of the queue; no bit depends on it.
  uint64_t submit(const StepRequest& request, const WeavePlan& order = {});

  /// Waits for step `number`, the oldest one not collected. Throws MachineError if the launch
  /// failed: then all steps in flight are void, and the model can be used again.
  StepOutputs collect(uint64_t number);

  /// Launches a step again and again: ms on the device of each launch. With `only`, the program is
  /// reduced to instructions of these kinds, without waits (lower/part_of_step.hpp). Nothing may be
  /// in flight.
  std::vector<float> time_step(const StepRequest& request, std::span<const Opcode> only,
                               const TimingOptions& options);
  /// The same of a program of `count` instructions that do nothing.
  std::vector<float> time_empty(uint32_t count, const TimingOptions& options);

  /// Time on the device of the step collected last, in ms.
  float elapsed_ms() const;
  /// Events of the last step, in any order.
  std::vector<TraceEvent> events();
  std::vector<std::string> verify(const StepRequest& request, const WeavePlan& order = {}) const;

 private:
  struct Parts;

  ModelShape shape_;
  StepLimits limits_;
  std::unique_ptr<Parts> parts_;
};

}  // namespace terrazzo::cuda
