#include "machine/cuda/step_slot.hpp"

#include <cstring>

#include "machine/step_image.hpp"

namespace terrazzo::cuda {

StepSlot::StepSlot(uint64_t bytes, uint32_t rows)
    : host_(bytes),
      device_(bytes),
      sampled_(rows * sizeof(SampledToken)),
      report_(sizeof(sm90::WatchdogReport)) {
  std::memset(report_.data(), 0, report_.bytes());
}

void StepSlot::upload(const LoweredStep& step, cudaStream_t stream) {
  const StepImage image(step, 0);
  if (host_.bytes() < image.bytes()) {
    host_ = PinnedMemory(2 * image.bytes());
    device_ = DeviceMemory(2 * image.bytes());
  }
  image.copy_to(host_.data());
  check_cuda(
      cudaMemcpyAsync(device_.data(), host_.data(), image.bytes(), cudaMemcpyHostToDevice, stream));
  uploaded.record(stream);
  step_ = {.tables = image.tables_at(device_.data()),
           .program = image.program_at(device_.data()),
           .counters = step.counters,
           .num_wanted_logits = step.num_wanted_logits};
}

void StepSlot::reserve_logits(uint32_t logits_cols) {
  const uint64_t bytes = uint64_t{step_.num_wanted_logits} * logits_cols * sizeof(float);
  if (logits_.bytes() < bytes) {
    logits_ = PinnedMemory(bytes);
  }
}

void StepSlot::fetch(const std::byte* heap, const HeapLayout& layout, uint32_t logits_cols,
                     cudaStream_t stream) {
  const auto copy = [&](const PinnedMemory& target, Buffer buffer, uint64_t bytes) {
    if (bytes != 0) {
      check_cuda(cudaMemcpyAsync(target.data(), heap + layout.at(buffer), bytes,
                                 cudaMemcpyDeviceToHost, stream));
    }
  };
  copy(sampled_, Buffer::kSampled, step_.tables.num_logit_rows * sizeof(SampledToken));
  copy(logits_, Buffer::kLogits, uint64_t{step_.num_wanted_logits} * logits_cols * sizeof(float));
}

}  // namespace terrazzo::cuda
