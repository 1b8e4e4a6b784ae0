// The ranks of a machine that live on one GPU: usually one; several are virtual GPUs, which share
// its SMs in one launch.
#pragma once

#include <cuda_runtime.h>

#include <array>
#include <memory>
#include <span>
#include <vector>

#include "machine/cuda/device_memory.hpp"
#include "machine/cuda/megakernel.hpp"
#include "machine/cuda/step_results.hpp"
#include "machine/cuda/step_slot.hpp"
#include "machine/cuda/weight_store.hpp"

namespace terrazzo::cuda {

struct CudaOptions {
  uint32_t num_sms = 0;  // of a rank; 0: its share of the device's but `reserve_sms`
  uint64_t watchdog_ns = 10'000'000'000;
  uint32_t reserve_sms = 0;       // of each device: left to other streams
  cudaStream_t stream = nullptr;  // that runs the steps, of a single device; null: one of its own
  uint32_t trace_events = 0;      // most events kept of a rank's step; 0: no trace
  uint32_t ranks_per_gpu = 1;     // more than 1: virtual GPUs
  sm90::DelayPlan delays{0, 0};   // random sleeps, for tests
  // Only rank 0 exists; all heaps are its own, so it can run a share of a step (keep_share) alone.
  bool is_alone = false;
};

/// What a rank has on its device.
struct Rank {
  Rank(const ModelShape& shape, const StepLimits& limits, const HeapLayout& layout,
       uint32_t trace_events);

  WeightStore weights;
  DeviceMemory heap;
  DeviceMemory abort;  // an AbortBoard
  DeviceMemory trace;  // a count, then the events

  sm90::AbortBoard* abort_board() const {
    return reinterpret_cast<sm90::AbortBoard*>(abort.data());
  }
  std::byte* at(const HeapLayout& layout, Buffer buffer) const {
    return heap.data() + layout.at(buffer);
  }
  sm90::TraceBuffer trace_buffer(uint32_t capacity) const;
  /// Events of the last step, which must have ended.
  std::vector<TraceEvent> events(uint32_t capacity) const;
};

class DeviceRanks {
 public:
  /// Steps that have a place: one that is collected, one that runs, one that is prepared.
  static constexpr uint32_t kNumSlots = 3;

  /// `count` ranks of `num_sms` SMs from `first_rank` on, with room for steps of `rank_bytes` each.
  DeviceRanks(int device, uint32_t first_rank, uint32_t count, uint32_t num_sms,
              const ModelShape& shape, const StepLimits& limits, const HeapLayout& layout,
              const CudaOptions& options, uint64_t rank_bytes);
  ~DeviceRanks();

  /// Calls of the runtime go to this device from now on.
  void use() const { check_cuda(cudaSetDevice(device_)); }

  int device() const { return device_; }
  uint32_t first_rank() const { return first_rank_; }
  uint32_t size() const { return static_cast<uint32_t>(ranks_.size()); }
  Rank& rank(uint32_t local) { return *ranks_[local]; }
  const Rank& rank(uint32_t local) const { return *ranks_[local]; }
  StepSlot& slot(uint32_t index) const { return *slots_[index]; }
  cudaStream_t stream() const { return stream_; }
  cudaStream_t copies() const { return copies_.get(); }
  /// Of the last cleared bank; also see `hold_until_clear`.
  const Event& cleared() const { return cleared_; }

  /// Steps after this wait until the banks that `all_clear` stands for are clear.
  void hold_until_clear(const Event& all_clear) const { all_clear.hold(stream_); }

  /// Queues what goes before a launch.
  void begin(uint32_t slot, Event* timed_begin);
  /// The first `bytes` of a bank of every rank become zeros once the slot's launch has begun.
  void clear_bank(uint32_t slot, uint32_t bank, uint64_t bytes, const PinnedMemory& zeros,
                  const HeapLayout& layout);
  /// Queues the results' way back behind a launch.
  void fetch(const StepResults& results, const HeapLayout& layout, uint32_t logits_cols) const;

  /// Tells every rank here where all ranks' abort flags are.
  void set_abort_board(const sm90::AbortBoard& board) const;

  /// Raises the abort flags from outside, while kernels run; `one` holds a word that is not 0.
  void stop(const PinnedMemory& one) const;
  /// Waits for all that is queued.
  void drain() const;
  /// After a failure, once all devices have drained: no flags, no reports, no counts.
  void reset(const HeapLayout& layout) const;

 private:
  int device_;
  uint32_t first_rank_;
  uint32_t trace_events_;
  Stream own_stream_;
  Stream copies_;  // programs and cleared counters travel beside the running step
  cudaStream_t stream_;
  Event cleared_;
  std::vector<std::unique_ptr<Rank>> ranks_;
  std::array<std::unique_ptr<StepSlot>, kNumSlots> slots_;
};

}  // namespace terrazzo::cuda
