// What a step brings back to the host, from whichever ranks it lies on.
#pragma once

#include <vector>

#include "lower/counter_map.hpp"
#include "lower/lowered_step.hpp"
#include "machine/cuda/device_memory.hpp"
#include "terrazzo/core/heap.hpp"

namespace terrazzo::cuda {

/// Logits slots that follow each other and lie on one rank.
struct LogitRun {
  uint32_t owner;
  uint32_t first_slot;
  uint32_t count;
};

/// Where the wanted logits of a step lie: the owner of a compact block has its rows.
std::vector<LogitRun> wanted_logit_runs(const LoweredStep& step, const ModelShape& shape);

class StepResults {
 public:
  /// Room for `rows` sampled tokens.
  explicit StepResults(uint32_t rows) : sampled_(rows * sizeof(SampledToken)) {}

  /// Notes what `step` will leave.
  void prepare(const LoweredStep& step, const ModelShape& shape);
  /// Room for its logits; before its launch, since it may wait for the device.
  void reserve_logits(uint32_t logits_cols);

  /// Copies what `rank` has of the results off its heap, asynchronously on `stream`: the sampled
  /// tokens, which all have, of rank 0, and of [num_wanted_logits, logits_cols] what it owns.
  void fetch(uint32_t rank, const std::byte* heap, const HeapLayout& layout, uint32_t logits_cols,
             cudaStream_t stream) const;

  const SampledToken* sampled() const { return sampled_.as<SampledToken>(); }
  const float* logits() const { return logits_.as<float>(); }
  /// Of the step, for diagnoses.
  const CounterMap& counters() const { return counters_; }

 private:
  PinnedMemory sampled_;
  PinnedMemory logits_;
  CounterMap counters_;
  uint32_t num_rows_ = 0;
  uint32_t num_wanted_logits_ = 0;
  std::vector<LogitRun> runs_;
};

}  // namespace terrazzo::cuda
