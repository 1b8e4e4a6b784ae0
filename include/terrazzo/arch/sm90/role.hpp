// One role of an SM: a warp or a warpgroup, and its half of each synchronisation.
//
// Every wait has a deadline. The first role to give up reports and raises the abort flag; from then
// on all operations of all roles do nothing, so that every role comes to the end of its instruction
// and leaves.
#pragma once

#include <cstddef>
#include <cstdint>

#include "terrazzo/arch/sm90/bulk_copy.hpp"
#include "terrazzo/arch/sm90/counter.hpp"
#include "terrazzo/arch/sm90/fence.hpp"
#include "terrazzo/arch/sm90/launch_view.hpp"
#include "terrazzo/arch/sm90/shared_storage.hpp"
#include "terrazzo/arch/sm90/special.hpp"
#include "terrazzo/core/roles.hpp"
#include "terrazzo/core/trace_event.hpp"

namespace terrazzo::sm90 {

/// The host machine's planted faults do not exist here.
struct NoFaults {
  static constexpr bool no_full_wait = false;
  static constexpr bool double_arrival = false;
};

/// Failed tries between two looks at the abort flag and the clock: these cost as much as the wait
/// itself.
inline constexpr uint32_t kTriesPerLook = 64;

class Role {
 public:
  __device__ __forceinline__ Role(SharedStorage& shared, const LaunchView& launch, RoleKind kind,
                                  uint32_t sm, uint32_t lane)
      : shared_(shared), launch_(launch), kind_(kind), sm_(sm), lane_(lane) {}

  __device__ __forceinline__ SharedStorage& shared() { return shared_; }
  __device__ __forceinline__ uint32_t lane() const { return lane_; }
  __device__ __forceinline__ uint32_t gpu() const { return launch_.gpu; }
  __device__ __forceinline__ uint32_t sm() const { return sm_; }
  __device__ __forceinline__ RoleKind kind() const { return kind_; }
  __device__ __forceinline__ bool aborted() const { return aborted_; }
  __device__ __forceinline__ bool checked() const { return false; }
  static constexpr __device__ NoFaults faults() { return {}; }
  __device__ __forceinline__ void set_current(const InstructionSlot* slot) { current_ = slot; }

  // --- barriers of this SM ---

  __device__ __forceinline__ void wait(Barrier& barrier, uint32_t parity, WaitKind kind,
                                       uint32_t index) {
    const uint32_t address = shared_address(&barrier);
    if (aborted_ || mbarrier_try_wait_parity(address, parity)) [[likely]] {
      return;
    }
    const uint64_t begin = globaltimer_ns();
    for (uint32_t tries = 1; !mbarrier_try_wait_parity(address, parity); ++tries) {
      if (tries % kTriesPerLook == 0 && give_up(begin, kind, index, 0, parity)) {
        return;
      }
    }
  }

  /// One look, without waiting: whether the phase with parity `parity` is complete.
  __device__ __forceinline__ bool is_complete(Barrier& barrier, uint32_t parity) {
    return mbarrier_try_wait_parity(shared_address(&barrier), parity);
  }

  /// One arrival for each warp of the group, once all its lanes are here.
  __device__ __forceinline__ void arrive(Barrier& barrier, WaitKind, uint32_t) {
    __syncwarp();
    if (lane_ == 0 && !aborted_) {
      mbarrier_arrive(shared_address(&barrier));
    }
  }

  __device__ __forceinline__ void arrive_expecting(Barrier& barrier, uint32_t bytes, WaitKind,
                                                   uint32_t) {
    __syncwarp();
    if (lane_ == 0 && !aborted_) {
      mbarrier_arrive_expect(shared_address(&barrier), bytes);
    }
    __syncwarp();
  }

  /// By the calling lane.
  __device__ __forceinline__ void arrive_expecting_from_lane(Barrier& barrier, uint32_t bytes,
                                                             WaitKind, uint32_t) {
    if (!aborted_) {
      mbarrier_arrive_expect(shared_address(&barrier), bytes);
    }
  }

  __device__ __forceinline__ void arrive_from_lane(Barrier& barrier, WaitKind, uint32_t) {
    if (!aborted_) {
      mbarrier_arrive(shared_address(&barrier));
    }
  }

  /// After work by single lanes: all lanes are here, and know if one of them gave up.
  __device__ __forceinline__ void converge() {
    __syncwarp();
    aborted_ = __any_sync(~0u, aborted_);
  }

  // --- counters ---

  __device__ __forceinline__ void acquire(const uint32_t* first, uint32_t count, uint32_t target,
                                          WaitKind kind, uint32_t index) {
    poll(first, lane_, count, kWarpThreads, target, kind, index);
    aborted_ = __any_sync(~0u, aborted_);
  }

  /// The same by the calling lane alone, which then issues the copies.
  __device__ __forceinline__ void acquire_from_lane(const uint32_t* first, uint32_t count,
                                                    uint32_t target, WaitKind kind,
                                                    uint32_t index) {
    poll(first, 0, count, 1, target, kind, index);
  }

  /// Whether counters have reached the target, by the calling lane alone, without waiting or
  /// ordering.
  __device__ __forceinline__ bool reached_from_lane(const uint32_t* first, uint32_t count,
                                                    uint32_t target) {
    bool all = true;
    for (uint32_t i = 0; i < count; ++i) {
      all &= ld_relaxed_gpu(first + i) >= target;
    }
    return all;
  }

  /// Makes what was acquired visible to this role's copies.
  __device__ __forceinline__ void fence_acquired() { fence_proxy_async(); }

  __device__ __forceinline__ void release_add(uint32_t* counter, uint32_t increment) {
    __syncwarp();
    if (lane_ == 0 && !aborted_) {
      delay(static_cast<uint32_t>(reinterpret_cast<uint64_t>(counter)));
      if (launch_.world == 1) {
        red_release_add_gpu(counter, increment);
      } else {
        red_release_add_sys(counter, increment);
      }
    }
  }

  /// Asks for the next `count` positions; `claimed` gives the first. By an elected lane: an atomic
  /// under `lane == 0` becomes a sum over the warp, whose shuffle waits for it on the spot.
  __device__ __forceinline__ uint32_t claim_async(uint32_t* head, uint32_t count) {
    uint32_t position = 0;
    if (elect_one()) {
      position = aborted_ ? ~0u : atom_add_relaxed_gpu(head, count);
    }
    return position;
  }
  __device__ __forceinline__ uint32_t claimed(uint32_t claim) {
    return __reduce_or_sync(~0u, claim);
  }

  /// This SM runs the instruction at `position` next.
  __device__ __forceinline__ void note_claim(uint32_t position) {
    if (lane_ == 0) {
      if (launch_.last_claims != nullptr) {
        st_relaxed_sys(launch_.last_claims + sm_, position);
      }
      delay(position);
    }
  }

  // --- copies ---

  /// By the calling lane.
  __device__ __forceinline__ void load_async(uint32_t target, const std::byte* source,
                                             uint32_t bytes, Barrier& full, uint32_t, uint32_t) {
    if (!aborted_) {
      bulk_load_async(target, source, bytes, shared_address(&full));
    }
  }

  __device__ __forceinline__ void store_async(std::byte* target, uint32_t source, uint32_t bytes) {
    if (!aborted_) {
      bulk_store_async(target, source, bytes);
    }
  }

  __device__ __forceinline__ void wait_stores_read() {
    bulk_commit_group();
    bulk_wait_group_read();
    __syncwarp();
  }

  __device__ __forceinline__ void wait_stores_written() {
    bulk_commit_group();
    bulk_wait_group();
    __syncwarp();
  }

  // --- the watchdog ---

  __device__ __forceinline__ void set_aborted(bool aborted) { aborted_ = aborted; }

  /// Between instructions: whether the launch is over for this role. All threads of a role answer
  /// alike, so that none of them runs products, or waits at a barrier, without the others.
  __device__ __forceinline__ bool is_over() {
    if (kind_ == RoleKind::kConsumer0 || kind_ == RoleKind::kConsumer1) {
      constexpr uint32_t kThreads = kWarpsPerConsumer * kWarpThreads;
      const uint32_t barrier = kind_ == RoleKind::kConsumer0 ? 1 : 2;  // see consumer_barrier
      aborted_ = named_barrier_any(barrier, kThreads, aborted_);
    } else {
      converge();  // lanes look at barriers one by one
    }
    return aborted_;
  }

  /// Between instructions: tells all roles, and the host, of a wait that this role gave up.
  __device__ __forceinline__ void report_given_up() {
    if (aborted_) {
      const GivenUp& wait = shared_.given_up[static_cast<uint32_t>(kind_)];
      if (wait.kind != static_cast<uint32_t>(WaitKind::kNone)) {
        raise_abort(launch_, current_, sm_, kind_, wait);
      }
    }
  }

  /// Before the block ends: copies that were on their way when the launch was given up must not
  /// land in the shared memory of the next block.
  __device__ __forceinline__ void drain() const {
    constexpr uint64_t kDrainNs = 1'000'000;  // far longer than any copy takes
    if (aborted_) {
      const uint64_t begin = globaltimer_ns();
      while (globaltimer_ns() - begin < kDrainNs) {
      }
    }
  }

  // --- trace ---

  __device__ __forceinline__ uint64_t waited_ns() const { return 0; }

  __device__ __forceinline__ void record(const TraceEvent& event) {
    if (lane_ == 0) {
      const uint32_t index = atom_add_relaxed_gpu(launch_.trace.count, 1);
      if (index < launch_.trace.capacity) {
        launch_.trace.events[index] = event;
      }
    }
  }

 private:
  /// A sleep of up to DelayPlan::most_ns that depends on rank, SM and `key`.
  __device__ __forceinline__ void delay(uint32_t key) const {
    if (launch_.delays.most_ns != 0) {
      const uint32_t rank = scramble(launch_.delays.seed + launch_.gpu);
      const uint32_t number = scramble(rank ^ scramble(key + (sm_ << 20)));
      nanosleep(__umulhi(number, launch_.delays.most_ns) >> (rank % 8));
    }
  }

  static __device__ __forceinline__ uint32_t scramble(uint32_t bits) {
    bits = (bits ^ bits >> 16) * 0x45d9f3bu;
    bits = (bits ^ bits >> 16) * 0x45d9f3bu;
    return bits ^ bits >> 16;
  }

  __device__ __forceinline__ uint32_t load_acquire(const uint32_t* counter) const {
    return launch_.world == 1 ? ld_acquire_gpu(counter) : ld_acquire_sys(counter);
  }

  __device__ __forceinline__ void poll(const uint32_t* first, uint32_t begin_index, uint32_t count,
                                       uint32_t step, uint32_t target, WaitKind kind,
                                       uint32_t index) {
    const uint64_t begin = globaltimer_ns();
    for (uint32_t i = begin_index; i < count && !aborted_; i += step) {
      uint32_t seen = load_acquire(first + i);
      for (uint32_t tries = 1; seen < target; ++tries, seen = load_acquire(first + i)) {
        if (tries % kTriesPerLook == 0 && give_up(begin, kind, index + i, seen, target)) {
          break;
        }
      }
    }
  }

  /// True when the launch is over for this role: another raised the flag, or the time is up. Takes
  /// a note only: a call while products are in flight would serialise them.
  __device__ __forceinline__ bool give_up(uint64_t begin, WaitKind kind, uint32_t index,
                                          uint32_t seen, uint32_t wanted) {
    if (ld_relaxed_sys(&launch_.abort->raised) != 0) {
      aborted_ = true;
    } else if (globaltimer_ns() - begin > launch_.watchdog_ns) {
      shared_.given_up[static_cast<uint32_t>(kind_)] = {static_cast<uint32_t>(kind), index, seen,
                                                        wanted};
      aborted_ = true;
    }
    return aborted_;
  }

  static TERRAZZO_OUTLINED_FN void raise_abort(const LaunchView& launch,
                                               const InstructionSlot* current, uint32_t sm,
                                               RoleKind role, const GivenUp& wait) {
    WatchdogReport& report = *launch.report;
    if (atomicCAS_system(&report.raised, 0u, 1u) == 0u) {
      report.gpu = launch.gpu;
      report.sm = sm;
      report.role = static_cast<uint32_t>(role);
      report.position = current != nullptr ? current->position : ~0u;
      report.layer = current != nullptr ? current->layer : 0;
      report.opcode = current != nullptr ? static_cast<uint32_t>(current->instruction.opcode) : ~0u;
      report.wait_kind = wait.kind;
      report.index = wait.index;
      report.seen = wait.seen;
      report.wanted = wait.wanted;
      report.at_ns = globaltimer_ns();
      __threadfence_system();
    }
    // All lanes come here, each for one rank: a loop would cost the kernel registers.
    st_relaxed_sys(launch.abort->flags[thread_index() % kMaxGpus], 1u);
  }

  SharedStorage& shared_;
  const LaunchView& launch_;
  RoleKind kind_;
  uint32_t sm_;
  uint32_t lane_;  // in its warp
  bool aborted_ = false;
  const InstructionSlot* current_ = nullptr;
};

}  // namespace terrazzo::sm90
