// A machine of ranks that takes steps back to back and tells of each, by fingerprints, all that it
// left: the residual stream, the KV pages and the tokens of every rank, and the wanted logits.
#pragma once

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <vector>

#include "fingerprint.hpp"
#include "machine/cuda/handles.hpp"
#include "rank_machine.hpp"

namespace terrazzo::testing {

enum RankPart : uint32_t { kResidualPart, kPagesPart, kTokensPart, kNumRankParts };
inline constexpr const char* kRankPartNames[kNumRankParts] = {"residual stream", "KV pages",
                                                              "tokens"};

/// Equal where all bits of two runs of a step are.
struct Outcome {
  std::vector<std::array<uint64_t, kNumRankParts>> ranks;
  uint64_t logits = 0;

  bool operator==(const Outcome&) const = default;

  bool do_ranks_agree() const {
    return std::all_of(ranks.begin(), ranks.end(), [&](const auto& rank) {
      return rank[kResidualPart] == ranks[0][kResidualPart] &&
             rank[kTokensPart] == ranks[0][kTokensPart];
    });
  }
};

class SoakMachine {
 public:
  SoakMachine(const ModelShape& shape, const StepLimits& limits, const TestModel& model,
              uint64_t watchdog_ns, bool real)
      : shape_(shape),
        ranks_per_gpu_(real ? 1 : shape.world),
        machine_(shape, limits, model, watchdog_ns, real) {
    for (uint32_t device = 0; device < machine_->num_devices(); ++device) {
      machine_->use_device(device);
      sums_.emplace_back(kMostRegions * sizeof(uint64_t));
    }
    for (Place& place : places_) {
      place.host = cuda::PinnedMemory(machine_->num_devices() * kMostRegions * sizeof(uint64_t));
      for (uint32_t device = 0; device < machine_->num_devices(); ++device) {
        machine_->use_device(device);
        place.ready.push_back(std::make_unique<cuda::Event>());
      }
    }
  }

  RankMachine& operator*() { return machine_; }
  cuda::CudaMachine* operator->() { return &*machine_; }

  /// While one step runs, the next is prepared. With peers a GPU may be written to as soon as
  /// another one begins the next step, so there fingerprints come first.
  size_t most_in_flight() { return machine_->num_devices() == 1 ? 2 : 1; }
  size_t num_in_flight() const { return flights_.size(); }

  /// Bytes of this value take the place of all KV pages, behind the steps in flight; where they
  /// stay, fingerprints see nothing.
  void clear_pages(uint8_t value) {
    blank_ = value * 0x0101010101010101u;
    for (uint32_t rank = 0; rank < shape_.world; ++rank) {
      machine_->use_device_of(rank);
      cuda::check_cuda(cudaMemsetAsync(machine_->address(Buffer::kKvPool, rank), value,
                                       machine_->layout().size(Buffer::kKvPool), stream_of(rank)));
    }
  }

  /// A wrong byte in the pages of the last rank, behind the step that runs: what a soak must find.
  void plant_fault() {
    const uint32_t rank = shape_.world - 1;
    machine_->use_device_of(rank);
    cuda::check_cuda(
        cudaMemsetAsync(machine_->address(Buffer::kKvPool, rank), 0x11, 1, stream_of(rank)));
  }

  /// Queues a step; its fingerprints follow it, behind a fault if `planted`.
  void submit(const LoweredStep& step, bool planted = false) {
    const uint32_t slot = machine_->upload(step);
    machine_->launch(/*fetch=*/true);
    if (planted) {
      plant_fault();
    }
    for (uint32_t device = 0; device < machine_->num_devices(); ++device) {
      queue_fingerprints(device, slot, step);
    }
    flights_.push_back({slot, step.num_wanted_logits});
  }

  /// Waits for the oldest step. Throws WatchdogError.
  Outcome collect() {
    const Flight flight = flights_.front();
    flights_.pop_front();
    machine_->wait_until_ended(flight.slot);
    machine_->check_ended(flight.slot);
    Outcome outcome;
    for (uint32_t rank = 0; rank < shape_.world; ++rank) {
      const uint32_t device = rank / ranks_per_gpu_;
      places_[flight.slot].ready[device]->wait();
      const uint64_t* const sums =
          places_[flight.slot].sums(device) + rank % ranks_per_gpu_ * kNumRankParts;
      std::copy_n(sums, kNumRankParts, outcome.ranks.emplace_back().begin());
    }
    outcome.logits = sum_of_logits(flight);
    return outcome;
  }

 private:
  struct Flight {
    uint32_t slot;
    uint32_t num_wanted_logits;
  };
  /// Where the fingerprints of a slot's step arrive.
  struct Place {
    cuda::PinnedMemory host;
    std::vector<std::unique_ptr<cuda::Event>> ready;  // of each device
    uint64_t* sums(uint32_t device) const { return host.as<uint64_t>() + device * kMostRegions; }
  };

  cudaStream_t stream_of(uint32_t rank) { return machine_->stream(rank / ranks_per_gpu_); }

  void queue_fingerprints(uint32_t device, uint32_t slot, const LoweredStep& step) {
    std::vector<Region> regions;
    for (uint32_t i = 0; i < ranks_per_gpu_; ++i) {
      const uint32_t rank = device * ranks_per_gpu_ + i;
      const auto at = [&](Buffer buffer, uint64_t bytes) {
        return Region{.data = reinterpret_cast<const uint64_t*>(machine_->address(buffer, rank)),
                      .words = bytes / sizeof(uint64_t),
                      .blank = 0,
                      .rows = kAllRows,
                      .panels = 1};
      };
      Region residual = at(Buffer::kX, residual_bytes(step, shape_));
      residual.rows = static_cast<uint32_t>(step.rows.size());
      residual.panels = shape_.hidden_panels();
      Region pages = at(Buffer::kKvPool, machine_->layout().size(Buffer::kKvPool));
      pages.blank = blank_;
      regions.push_back(residual);
      regions.push_back(pages);
      regions.push_back(at(Buffer::kSampled, step.logit_rows.size() * sizeof(SampledToken)));
    }
    machine_->use_device(device);
    const cudaStream_t stream = machine_->stream(device);
    auto* const sums = reinterpret_cast<uint64_t*>(sums_[device].data());
    launch_fingerprints(regions, sums, stream);
    cuda::check_cuda(cudaMemcpyAsync(places_[slot].sums(device), sums,
                                     regions.size() * sizeof(uint64_t), cudaMemcpyDeviceToHost,
                                     stream));
    places_[slot].ready[device]->record(stream);
  }

  uint64_t sum_of_logits(const Flight& flight) {
    const uint32_t cols = machine_->logits_cols();
    const float* const logits = machine_->logits(flight.slot);
    uint64_t sum = 0;
    for (uint64_t row = 0; row < flight.num_wanted_logits; ++row) {
      for (uint64_t col = 0; col < shape_.vocab; ++col) {
        uint32_t bits = 0;
        std::memcpy(&bits, logits + row * cols + col, sizeof(bits));
        sum += fingerprint_word(bits, row * cols + col);
      }
    }
    return sum;
  }

  ModelShape shape_;
  uint32_t ranks_per_gpu_;
  RankMachine machine_;
  std::vector<cuda::DeviceMemory> sums_;  // of each device
  std::array<Place, cuda::CudaMachine::kNumSlots> places_;
  std::deque<Flight> flights_;
  uint64_t blank_ = 0;
};

static_assert(kMaxGpus * kNumRankParts <= kMostRegions);

}  // namespace terrazzo::testing
