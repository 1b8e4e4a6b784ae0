#include "machine/cuda/device_ranks.hpp"

#include <algorithm>

#include "machine/cuda/check_cuda.hpp"

namespace terrazzo::cuda {
namespace {

constexpr uint64_t kTraceHeaderBytes = 16;  // the count, and the events' alignment

DeviceMemory cleared_memory(uint64_t bytes) {
  DeviceMemory memory(bytes);
  check_cuda(cudaMemset(memory.data(), 0, bytes));
  return memory;
}

/// The device, once it is the current one.
int used(int device) {
  check_cuda(cudaSetDevice(device));
  return device;
}

}  // namespace

Rank::Rank(const ModelShape& shape, const StepLimits& limits, const HeapLayout& layout,
           uint32_t trace_events)
    : weights(shape, limits.max_position),
      heap(cleared_memory(layout.total_bytes)),
      abort(cleared_memory(sizeof(sm90::AbortBoard))),
      trace(trace_events == 0 ? 0 : kTraceHeaderBytes + trace_events * sizeof(TraceEvent)) {}

sm90::TraceBuffer Rank::trace_buffer(uint32_t capacity) const {
  if (trace.bytes() == 0) {
    return {};
  }
  return {.events = reinterpret_cast<TraceEvent*>(trace.data() + kTraceHeaderBytes),
          .count = reinterpret_cast<uint32_t*>(trace.data()),
          .capacity = capacity};
}

std::vector<TraceEvent> Rank::events(uint32_t capacity) const {
  uint32_t count = 0;
  if (trace.bytes() != 0) {
    check_cuda(cudaMemcpy(&count, trace.data(), sizeof(count), cudaMemcpyDeviceToHost));
  }
  std::vector<TraceEvent> events(std::min(count, capacity));
  if (!events.empty()) {
    check_cuda(cudaMemcpy(events.data(), trace.data() + kTraceHeaderBytes,
                          events.size() * sizeof(TraceEvent), cudaMemcpyDeviceToHost));
  }
  return events;
}

DeviceRanks::DeviceRanks(int device, uint32_t first_rank, uint32_t count, uint32_t num_sms,
                         const ModelShape& shape, const StepLimits& limits,
                         const HeapLayout& layout, const CudaOptions& options, uint64_t rank_bytes)
    : device_(used(device)),
      first_rank_(first_rank),
      trace_events_(options.trace_events),
      stream_(options.stream != nullptr ? options.stream : own_stream_.get()) {
  for (uint32_t i = 0; i < count; ++i) {
    ranks_.push_back(std::make_unique<Rank>(shape, limits, layout, options.trace_events));
  }
  for (auto& slot : slots_) {
    slot = std::make_unique<StepSlot>(first_rank, count, num_sms, rank_bytes);
  }
  check_cuda(cudaDeviceSynchronize());
}

DeviceRanks::~DeviceRanks() {
  cudaSetDevice(device_);
  cudaStreamSynchronize(copies_.get());
  cudaStreamSynchronize(stream_);
}

void DeviceRanks::begin(uint32_t slot, Event* timed_begin) {
  use();
  if (trace_events_ != 0) {
    for (const auto& rank : ranks_) {
      check_cuda(cudaMemsetAsync(rank->trace.data(), 0, kTraceHeaderBytes, stream_));
    }
  }
  slots_[slot]->uploaded.hold(stream_);
  slots_[slot]->begun.record(stream_);
  if (timed_begin != nullptr) {
    timed_begin->record(stream_);
  }
}

void DeviceRanks::clear_bank(uint32_t slot, uint32_t bank, uint64_t bytes,
                             const PinnedMemory& zeros, const HeapLayout& layout) {
  use();
  slots_[slot]->begun.hold(copies_.get());
  for (const auto& rank : ranks_) {
    check_cuda(cudaMemcpyAsync(rank->at(layout, Buffer::kCounters) + bank * zeros.bytes(),
                               zeros.data(), bytes, cudaMemcpyHostToDevice, copies_.get()));
  }
  cleared_.record(copies_.get());
}

void DeviceRanks::fetch(const StepResults& results, const HeapLayout& layout,
                        uint32_t logits_cols) const {
  use();
  for (uint32_t i = 0; i < size(); ++i) {
    results.fetch(first_rank_ + i, ranks_[i]->heap.data(), layout, logits_cols, stream_);
  }
}

void DeviceRanks::set_abort_board(const sm90::AbortBoard& board) const {
  use();
  for (const auto& rank : ranks_) {
    check_cuda(cudaMemcpy(rank->abort_board(), &board, sizeof(board), cudaMemcpyHostToDevice));
  }
  check_cuda(cudaDeviceSynchronize());
}

void DeviceRanks::stop(const PinnedMemory& one) const {
  use();
  for (const auto& rank : ranks_) {
    check_cuda(cudaMemcpyAsync(&rank->abort_board()->raised, one.data(), sizeof(uint32_t),
                               cudaMemcpyHostToDevice, copies_.get()));
  }
}

void DeviceRanks::drain() const {
  use();
  check_cuda(cudaStreamSynchronize(stream_));
  check_cuda(cudaStreamSynchronize(copies_.get()));
}

void DeviceRanks::reset(const HeapLayout& layout) const {
  use();
  for (const auto& slot : slots_) {
    slot->clear_reports();
  }
  for (const auto& rank : ranks_) {
    check_cuda(cudaMemset(&rank->abort_board()->raised, 0, sizeof(uint32_t)));
    check_cuda(cudaMemset(rank->at(layout, Buffer::kCounters), 0, layout.size(Buffer::kCounters)));
  }
  check_cuda(cudaDeviceSynchronize());
}

}  // namespace terrazzo::cuda
