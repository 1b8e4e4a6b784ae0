// The bytes of all heaps of a machine: to compare what runs leave behind, and to go back.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "machine/host/host_machine.hpp"

namespace terrazzo::testing {

/// A copy of the heaps of all GPUs.
class HeapImage {
 public:
  explicit HeapImage(host::HostMachine& machine) {
    for (uint32_t gpu = 0; gpu < machine.shape().world; ++gpu) {
      const std::byte* const heap = machine.heap(gpu);
      heaps_.emplace_back(heap, heap + machine.layout().total_bytes);
    }
  }

  void restore(host::HostMachine& machine) const {
    for (uint32_t gpu = 0; gpu < heaps_.size(); ++gpu) {
      std::memcpy(machine.heap(gpu), heaps_[gpu].data(), heaps_[gpu].size());
    }
  }

  /// Where the machine's heaps differ first after `step`; empty if all bits are equal. Counters are
  /// left out, and sums of squares beyond the step's rows: padding of 16-byte copies, that no one
  /// reads.
  std::string difference(host::HostMachine& machine, const LoweredStep& step) const {
    for (uint32_t gpu = 0; gpu < heaps_.size(); ++gpu) {
      for (uint32_t i = 0; i < kNumBuffers; ++i) {
        const auto buffer = static_cast<Buffer>(i);
        const std::string place =
            buffer == Buffer::kCounters ? ""
            : buffer == Buffer::kSumSqX || buffer == Buffer::kSumSqX1
                ? sums_difference(machine, gpu, buffer, step)
                : range_difference(machine, gpu, buffer, 0, machine.layout().size(buffer));
        if (!place.empty()) {
          return place;
        }
      }
    }
    return {};
  }

 private:
  std::string sums_difference(host::HostMachine& machine, uint32_t gpu, Buffer buffer,
                              const LoweredStep& step) const {
    const auto rows = static_cast<uint32_t>(step.rows.size());
    const uint32_t panels = machine.shape().hidden_panels();
    for (uint32_t line = 0; line < ceil_div(rows, kRowBlock) * panels; ++line) {
      const uint32_t valid = std::min(rows - line / panels * kRowBlock, kRowBlock);
      const std::string place = range_difference(
          machine, gpu, buffer, uint64_t{line} * kRowBlock * sizeof(float), valid * sizeof(float));
      if (!place.empty()) {
        return place;
      }
    }
    return {};
  }

  std::string range_difference(host::HostMachine& machine, uint32_t gpu, Buffer buffer,
                               uint64_t begin, uint64_t bytes) const {
    const uint64_t at = machine.layout().at(buffer) + begin;
    const std::byte* const seen = machine.heap(gpu) + at;
    const std::byte* const expected = heaps_[gpu].data() + at;
    if (std::memcmp(seen, expected, bytes) == 0) {
      return {};
    }
    uint64_t offset = 0;
    while (seen[offset] == expected[offset]) {
      ++offset;
    }
    return "gpu " + std::to_string(gpu) + " " + kBufferNames[static_cast<uint32_t>(buffer)] +
           " differs first at byte " + std::to_string(begin + offset);
  }

  std::vector<std::vector<std::byte>> heaps_;  // [gpu]
};

}  // namespace terrazzo::testing
