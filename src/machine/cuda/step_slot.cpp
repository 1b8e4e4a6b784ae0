#include "machine/cuda/step_slot.hpp"

#include <cstring>

#include "machine/step_image.hpp"

namespace terrazzo::cuda {

StepSlot::StepSlot(uint32_t first_rank, uint32_t num_ranks, uint64_t rank_bytes)
    : first_rank_(first_rank),
      host_(num_ranks * rank_bytes),
      device_(num_ranks * rank_bytes),
      report_(num_ranks * sizeof(sm90::WatchdogReport)),
      steps_(num_ranks) {
  clear_reports();
}

void StepSlot::clear_reports() const { std::memset(report_.data(), 0, report_.bytes()); }

void StepSlot::upload(const LoweredStep& step, cudaStream_t stream) {
  std::vector<StepImage> images;
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < steps_.size(); ++i) {
    images.emplace_back(step, first_rank_ + i);
    bytes += images.back().bytes();
  }
  if (host_.bytes() < bytes) {
    host_ = PinnedMemory(2 * bytes);
    device_ = DeviceMemory(2 * bytes);
  }
  uint64_t at = 0;
  for (uint32_t i = 0; i < steps_.size(); ++i) {
    images[i].copy_to(host_.data() + at);
    steps_[i] = {.tables = images[i].tables_at(device_.data() + at),
                 .program = images[i].program_at(device_.data() + at)};
    at += images[i].bytes();
  }
  check_cuda(cudaMemcpyAsync(device_.data(), host_.data(), bytes, cudaMemcpyHostToDevice, stream));
  uploaded.record(stream);
}

}  // namespace terrazzo::cuda
