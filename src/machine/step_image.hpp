// One GPU's program and tables of a step as one run of bytes, so that one copy takes all of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "lower/lowered_step.hpp"

namespace terrazzo {

/// Places of the parts; the step must outlive it.
class StepImage {
 public:
  StepImage(const LoweredStep& step, uint32_t gpu) : step_(step), gpu_(gpu) {
    const GpuProgram& program = step.gpus[gpu];
    for (uint32_t i = 0; i < kNumSegments; ++i) {
      place(i, program.segments[i]);
    }
    place(kRows, step.rows);
    place(kLogitRows, step.logit_rows);
    place(kPages, step.page_ids);
  }

  uint64_t bytes() const { return bytes_; }

  void copy_to(std::byte* target) const {
    for (const Part& part : parts_) {
      if (!part.bytes.empty()) {
        std::memcpy(target + part.offset, part.bytes.data(), part.bytes.size());
      }
    }
  }

  /// The program and the tables where the bytes lie at `base`, of whatever memory that is.
  ProgramView program_at(const std::byte* base) const {
    ProgramView view = step_.view(gpu_);
    view.prologue = at<Instruction>(base, static_cast<uint32_t>(Segment::kPrologue));
    view.body = at<Instruction>(base, static_cast<uint32_t>(Segment::kBody));
    view.epilogue = at<Instruction>(base, static_cast<uint32_t>(Segment::kEpilogue));
    return view;
  }
  StepTables tables_at(const std::byte* base) const {
    StepTables tables = step_.tables();
    tables.rows = at<RowInfo>(base, kRows);
    tables.logit_rows = at<LogitInfo>(base, kLogitRows);
    tables.page_ids = at<uint32_t>(base, kPages);
    return tables;
  }

 private:
  static constexpr uint64_t kAlignment = 256;
  enum : uint32_t { kRows = kNumSegments, kLogitRows, kPages, kCount };

  struct Part {
    std::span<const std::byte> bytes;
    uint64_t offset;
  };

  template <class T>
  void place(uint32_t part, const std::vector<T>& values) {
    parts_[part] = {std::as_bytes(std::span(values)), bytes_};
    bytes_ += round_up<uint64_t>(values.size() * sizeof(T), kAlignment);
  }
  template <class T>
  const T* at(const std::byte* base, uint32_t part) const {
    return reinterpret_cast<const T*>(base + parts_[part].offset);
  }

  const LoweredStep& step_;
  uint32_t gpu_;
  Part parts_[kCount];
  uint64_t bytes_ = 0;
};

}  // namespace terrazzo
