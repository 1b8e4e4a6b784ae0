#include "machine/cuda/step_slot.hpp"

#include <algorithm>
#include <cstring>
#include <sstream>

#include "machine/step_image.hpp"

namespace terrazzo::cuda {

StepSlot::StepSlot(uint32_t first_rank, uint32_t num_ranks, uint32_t num_sms, uint64_t rank_bytes)
    : first_rank_(first_rank),
      num_sms_(num_sms),
      host_(num_ranks * rank_bytes),
      device_(num_ranks * rank_bytes),
      report_(num_ranks * sizeof(sm90::WatchdogReport)),
      last_claims_(uint64_t{num_ranks} * num_sms * sizeof(uint32_t)),
      steps_(num_ranks),
      host_programs_(num_ranks) {
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
    host_programs_[i] = images[i].program_at(host_.data() + at);
    at += images[i].bytes();
  }
  std::memset(last_claims_.data(), 0xff, last_claims_.bytes());
  check_cuda(cudaMemcpyAsync(device_.data(), host_.data(), bytes, cudaMemcpyHostToDevice, stream));
  uploaded.record(stream);
}

std::string StepSlot::last_instructions() const {
  std::ostringstream out;
  for (uint32_t i = 0; i < host_programs_.size(); ++i) {
    for (uint32_t sm = 0; sm < num_sms_; ++sm) {
      const uint32_t position = last_claims(i)[sm];
      if (position >= host_programs_[i].queue_size()) {
        continue;  // none yet
      }
      const QueuePlace place = place_of(host_programs_[i], position);
      out << "\n  gpu " << first_rank_ + i << " sm " << sm << ": "
          << opcode_name(place.instruction->opcode) << " (layer " << place.layer << ", position "
          << position << ')';
    }
  }
  return out.str();
}

StepProgress StepSlot::furthest_behind() const {
  StepProgress least;
  for (uint32_t i = 0; i < host_programs_.size(); ++i) {
    const uint32_t queue = host_programs_[i].queue_size();
    for (uint32_t sm = 0; sm < num_sms_; ++sm) {
      const uint32_t position = last_claims(i)[sm];
      if (position < queue) {
        const StepProgress seen{true, place_of(host_programs_[i], position).layer,
                                static_cast<double>(position) / queue};
        least = least.begun ? std::min(least, seen) : seen;
      }
    }
  }
  return least;
}

}  // namespace terrazzo::cuda
