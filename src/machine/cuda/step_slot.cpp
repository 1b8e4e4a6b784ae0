#include "machine/cuda/step_slot.hpp"

#include <cstring>
#include <span>

namespace terrazzo::cuda {
namespace {

constexpr uint64_t kPartAlignment = 256;

/// The parts of a step, one after the other.
class Parts {
 public:
  template <class T>
  uint64_t place(const std::vector<T>& values) {
    const uint64_t offset = bytes_;
    parts_[count_++] = {std::as_bytes(std::span(values)), offset};
    bytes_ += round_up<uint64_t>(values.size() * sizeof(T), kPartAlignment);
    return offset;
  }
  uint64_t bytes() const { return bytes_; }

  void copy_to(std::byte* target) const {
    for (uint32_t i = 0; i < count_; ++i) {
      if (!parts_[i].bytes.empty()) {
        std::memcpy(target + parts_[i].offset, parts_[i].bytes.data(), parts_[i].bytes.size());
      }
    }
  }

 private:
  struct Part {
    std::span<const std::byte> bytes;
    uint64_t offset;
  };
  Part parts_[kNumSegments + 3];
  uint32_t count_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace

StepSlot::StepSlot(uint64_t bytes, uint32_t rows)
    : host_(bytes),
      device_(bytes),
      sampled_(rows * sizeof(SampledToken)),
      report_(sizeof(sm90::WatchdogReport)) {
  std::memset(report_.data(), 0, report_.bytes());
}

void StepSlot::upload(const LoweredStep& step, cudaStream_t stream) {
  Parts parts;
  const GpuProgram& gpu = step.gpus[0];
  const uint64_t prologue = parts.place(gpu.segment(Segment::kPrologue));
  const uint64_t body = parts.place(gpu.segment(Segment::kBody));
  const uint64_t epilogue = parts.place(gpu.segment(Segment::kEpilogue));
  const uint64_t rows = parts.place(step.rows);
  const uint64_t logit_rows = parts.place(step.logit_rows);
  const uint64_t pages = parts.place(step.page_ids);
  if (host_.bytes() < parts.bytes()) {
    host_ = PinnedMemory(2 * parts.bytes());
    device_ = DeviceMemory(2 * parts.bytes());
  }
  parts.copy_to(host_.data());
  check_cuda(cudaMemcpyAsync(device_.data(), host_.data(), parts.bytes(), cudaMemcpyHostToDevice,
                             stream));
  uploaded.record(stream);

  const std::byte* const base = device_.data();
  step_ = {.tables = {reinterpret_cast<const RowInfo*>(base + rows),
                      reinterpret_cast<const LogitInfo*>(base + logit_rows),
                      reinterpret_cast<const uint32_t*>(base + pages),
                      static_cast<uint32_t>(step.rows.size()),
                      static_cast<uint32_t>(step.logit_rows.size())},
           .program = step.view(0),
           .counters = step.counters,
           .num_wanted_logits = step.num_wanted_logits};
  step_.program.prologue = reinterpret_cast<const Instruction*>(base + prologue);
  step_.program.body = reinterpret_cast<const Instruction*>(base + body);
  step_.program.epilogue = reinterpret_cast<const Instruction*>(base + epilogue);
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
  copy(logits_, Buffer::kLogits,
       uint64_t{step_.num_wanted_logits} * logits_cols * sizeof(float));
}

}  // namespace terrazzo::cuda
