#include "machine/cuda/step_results.hpp"

#include "machine/cuda/check_cuda.hpp"

namespace terrazzo::cuda {

std::vector<LogitRun> wanted_logit_runs(const LoweredStep& step, const ModelShape& shape) {
  std::vector<LogitRun> runs;
  for (uint32_t row = 0; row < step.logit_rows.size(); ++row) {
    const uint32_t slot = step.logit_rows[row].logits_slot;
    if (slot >= step.num_wanted_logits) {
      continue;
    }
    const uint32_t owner = shape.owner(row / kRowBlock);
    if (!runs.empty() && runs.back().owner == owner &&
        runs.back().first_slot + runs.back().count == slot) {
      ++runs.back().count;
    } else {
      runs.push_back({owner, slot, 1});
    }
  }
  return runs;
}

void StepResults::prepare(const LoweredStep& step, const ModelShape& shape) {
  counters_ = step.counters;
  num_rows_ = static_cast<uint32_t>(step.logit_rows.size());
  num_wanted_logits_ = step.num_wanted_logits;
  runs_ = wanted_logit_runs(step, shape);
}

void StepResults::reserve_logits(uint32_t logits_cols) {
  const uint64_t bytes = uint64_t{num_wanted_logits_} * logits_cols * sizeof(float);
  if (logits_.bytes() < bytes) {
    logits_ = PinnedMemory(bytes);
  }
}

void StepResults::fetch(uint32_t rank, const std::byte* heap, const HeapLayout& layout,
                        uint32_t logits_cols, cudaStream_t stream) const {
  const auto copy = [&](const PinnedMemory& target, Buffer buffer, uint64_t offset,
                        uint64_t bytes) {
    if (bytes != 0) {
      check_cuda(cudaMemcpyAsync(target.data() + offset, heap + layout.at(buffer) + offset, bytes,
                                 cudaMemcpyDeviceToHost, stream));
    }
  };
  if (rank == 0) {
    copy(sampled_, Buffer::kSampled, 0, num_rows_ * sizeof(SampledToken));
  }
  const uint64_t slot_bytes = logits_cols * sizeof(float);
  for (const LogitRun& run : runs_) {
    if (run.owner == rank) {
      copy(logits_, Buffer::kLogits, run.first_slot * slot_bytes, run.count * slot_bytes);
    }
  }
}

}  // namespace terrazzo::cuda
