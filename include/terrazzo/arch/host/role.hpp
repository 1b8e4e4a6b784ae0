// One role of one virtual SM: a fiber, and its half of each synchronisation.
#pragma once

#include <atomic>
#include <chrono>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "terrazzo/arch/host/blocked.hpp"
#include "terrazzo/arch/host/checker.hpp"
#include "terrazzo/arch/host/copy_queue.hpp"
#include "terrazzo/arch/host/fiber.hpp"
#include "terrazzo/arch/host/from_lane.hpp"
#include "terrazzo/arch/host/launch.hpp"
#include "terrazzo/arch/host/shared_storage.hpp"
#include "terrazzo/core/trace_event.hpp"

namespace terrazzo::host {

inline uint64_t now_ns() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(now).count());
}

class Role : public FromLane<Role> {
 public:
  Fiber fiber;

  void bind(Launch* launch, uint32_t gpu, uint32_t sm, RoleKind kind, SharedStorage* shared,
            Checker* checker, SharedShadow* shadow, CopyQueue* copies, uint32_t agent) {
    launch_ = launch;
    gpu_ = gpu;
    sm_ = sm;
    kind_ = kind;
    shared_ = shared;
    checker_ = checker;
    shadow_ = shadow;
    copies_ = copies;
    agent_ = agent;
    blocked_ = {};
    wait_ = {};
    current_ = nullptr;
    unread_ = unwritten_ = 0;
    held_slots_ = 0;
    stale_ = false;
    waited_ns_ = 0;
    if (checker_ != nullptr) {
      clock_.assign(checker_->num_agents(), 0);
      clock_[agent_] = 1;
    }
  }

  uint32_t gpu() const { return gpu_; }
  uint32_t sm() const { return sm_; }
  RoleKind kind() const { return kind_; }
  uint32_t agent() const { return agent_; }
  SharedStorage& shared() { return *shared_; }
  Launch& launch() { return *launch_; }
  bool checked() const { return checker_ != nullptr; }
  const PlantedFaults& faults() const {
    static constexpr PlantedFaults kNone{};
    return checker_ != nullptr ? checker_->options.faults : kNone;
  }
  const WaitInfo& wait_info() const { return wait_; }
  void set_current(const InstructionSlot* slot) { current_ = slot; }

  // A wait that is given up here is an exception.
  static constexpr bool aborted() { return false; }
  void set_aborted(bool) {}
  static constexpr bool is_over() { return false; }
  void report_given_up() {}

  // --- trace ---

  void set_trace(std::vector<TraceEvent>* events) { events_ = events; }
  uint64_t waited_ns() const { return waited_ns_; }
  void record(const TraceEvent& event) { events_->push_back(event); }

  // --- barriers of this SM ---

  void wait(Barrier& barrier, uint32_t parity, WaitKind kind, uint32_t index) {
    block([&] { blocked_ = {&barrier, parity, nullptr, 0, 0, nullptr}; }, {kind, index, 0, parity});
    if (checked()) {
      join(clock_, barrier.clock);
      held_slots_ |= kind == WaitKind::kSlotFull ? 1u << index : 0u;
    }
  }

  /// Between a slot's full barrier and this role's arrival on its empty one.
  bool holds_slot(uint32_t index) const { return (held_slots_ >> index & 1u) != 0; }

  void arrive(Barrier& barrier, WaitKind kind, uint32_t index) {
    if (checked()) {
      if (kind == WaitKind::kSlotEmpty) {
        give_back_slot(index);
      }
      join(barrier.next_clock, clock_);
      ++clock_[agent_];
    }
    if (!barrier.arrive()) [[unlikely]] {
      fail("protocol", describe(), " arrives once too often on the barrier of ",
           kWaitNames[static_cast<uint32_t>(kind)], ' ', index);
    }
    interleave();
  }

  /// Waits are what orders memory here: a look finds nothing.
  static constexpr bool is_complete(Barrier&, uint32_t) { return false; }

  /// Arrives, and makes the phase wait for `bytes` bytes of copies too.
  void arrive_expecting(Barrier& barrier, uint32_t bytes, WaitKind kind, uint32_t index) {
    barrier.expect_bytes(bytes);
    arrive(barrier, kind, index);
  }

  // --- counters ---

  /// Waits until `count` counters from `first` have reached `target`, with acquire.
  void acquire(const uint32_t* first, uint32_t count, uint32_t target, WaitKind kind,
               uint32_t index) {
    block([&] { blocked_ = {nullptr, 0, first, count, target, nullptr}; },
          {kind, index, 0, target});
    if (checked() && !faults().no_acquire) {
      for (uint32_t i = 0; i < count; ++i) {
        join(clock_, checker_->counter_clock(first + i));
      }
    }
    stale_ = true;
  }

  /// Whether counters have reached the target: only a guess of what a wait would find.
  static bool reached_from_lane(const uint32_t* first, uint32_t count, uint32_t target) {
    return counters_reached(first, count, target);
  }

  /// Makes what was acquired visible to this role's copies.
  void fence_acquired() { stale_ = stale_ && faults().no_load_fence; }

  void release_add(uint32_t* counter, uint32_t increment) {
    if (checked()) {
      join(checker_->counter_clock(counter), clock_);
      ++clock_[agent_];
    }
    std::atomic_ref<uint32_t>(*counter).fetch_add(increment, std::memory_order_acq_rel);
    interleave();
  }

  /// Asks for the next `count` positions; `claimed` gives the first.
  uint32_t claim_async(uint32_t* head, uint32_t count) {
    interleave();
    return std::atomic_ref<uint32_t>(*head).fetch_add(count, std::memory_order_relaxed);
  }
  uint32_t claimed(uint32_t claim) {
    interleave();
    return claim;
  }

  void note_claim(uint32_t) {}

  // --- copies ---

  void load_async(std::byte* target, const std::byte* source, uint32_t bytes, Barrier& full,
                  uint32_t slot, uint32_t slot_offset) {
    if (!checked()) {
      std::memcpy(target, source, bytes);
      full.complete_bytes(bytes);
      return;
    }
    check_copy(target, source, bytes);
    if (stale_) {
      fail("protocol", describe(), " loads ", checker_->place_of(source), " into slot ", slot,
           " after an acquire without the proxy fence");
    }
    copies_->pending.push_back({this,
                                target,
                                source,
                                bytes,
                                clock_,
                                &full,
                                &shadow_->slot_valid[slot][slot_offset / kShadowBytes],
                                position(),
                                nullptr,
                                {}});
    if (checker_->options.lateness == Lateness::kEager) {
      land_all();
    }
    interleave();
  }

  void store_async(std::byte* target, const std::byte* source, uint32_t bytes, uint32_t consumer,
                   uint32_t stage) {
    if (!checked()) {
      std::memcpy(target, source, bytes);
      return;
    }
    check_copy(target, source, bytes);
    if (shadow_->stage_dirty[consumer][stage]) {
      fail("protocol", describe(), " stores to ", checker_->place_of(target),
           " bytes that their writer did not make visible with the proxy fence");
    }
    copies_->pending.push_back({this,
                                target,
                                source,
                                bytes,
                                clock_,
                                nullptr,
                                nullptr,
                                position(),
                                &shadow_->stage_unread[consumer][stage],
                                {}});
    ++shadow_->stage_unread[consumer][stage];
    ++unread_;
    ++unwritten_;
    if (checker_->options.lateness == Lateness::kEager) {
      land_all();
    }
    interleave();
  }

  /// Until the stores' sources may be overwritten.
  void wait_stores_read() {
    if (faults().no_read_wait) {
      return;
    }
    block([&] { blocked_ = {nullptr, 0, nullptr, 0, 0, &unread_}; }, {});
  }

  /// Until the stores are complete.
  void wait_stores_written() {
    if (faults().no_store_wait) {
      return;
    }
    block([&] { blocked_ = {nullptr, 0, nullptr, 0, 0, &unwritten_}; }, {});
  }

  /// The scheduler's choice: one phase of copy `index` happens now.
  static void land(CopyQueue& queue, size_t index, Checker& checker) {
    PendingCopy& copy = queue.pending[index];
    Role& role = *copy.role;
    if (copy.full != nullptr) {
      checker.read({role.agent_, copy.position}, copy.clock, copy.source, copy.bytes, copy.valid);
      std::memcpy(copy.target, copy.source, copy.bytes);
      join(copy.full->next_clock, copy.clock);
      copy.full->complete_bytes(copy.bytes);
    } else if (copy.taken.empty()) {
      copy.taken.assign(copy.source, copy.source + copy.bytes);
      --role.unread_;
      --*copy.unread;
      return;
    } else {
      // Its epoch is of now: it is not part of what the role published while it was on its way.
      checker.write({role.agent_, copy.position}, copy.clock, role.clock_[role.agent_], copy.target,
                    copy.bytes);
      std::memcpy(copy.target, copy.taken.data(), copy.bytes);
      --role.unwritten_;
    }
    queue.pending[index] = std::move(queue.pending.back());
    queue.pending.pop_back();
  }

  /// An ordinary read of the memory's cell at `address`.
  void check_read(const void* address) const {
    if (checked()) {
      const auto at = reinterpret_cast<uintptr_t>(address) / kShadowBytes * kShadowBytes;
      uint8_t valid = 0;
      checker_->read({agent_, position()}, clock_, reinterpret_cast<const std::byte*>(at),
                     kShadowBytes, &valid);
      if (valid == 0) {
        fail("poison", describe(), " reads bytes that nobody wrote: ",
             checker_->place_of(reinterpret_cast<const std::byte*>(at)));
      }
    }
  }

  // --- scheduling ---

  bool ready() const { return blocked_.over(); }

  bool waits_for_counters() const { return blocked_.counters != nullptr; }

  /// This role as a line of a report; reads the counter it waits for.
  BlockedRole report() const {
    BlockedRole out{gpu_, sm_, kind_, current_ != nullptr, {}, 0, 0, wait_};
    if (current_ != nullptr) {
      out.instruction = current_->instruction;
      out.layer = current_->layer;
      out.position = current_->position;
    }
    for (uint32_t i = 0; i < blocked_.count; ++i) {
      const uint32_t seen = load_counter(blocked_.counters + i);
      if (seen < blocked_.target) {
        out.wait.index += i;
        out.wait.seen = seen;
        break;
      }
    }
    return out;
  }

  std::string describe() const {
    return current_ == nullptr
               ? name()
               : describe(current_->instruction.opcode, current_->layer, current_->position);
  }

  /// In an instruction that it may have left since.
  std::string describe(Opcode opcode, int32_t layer, uint32_t position) const {
    return name() + " in " + opcode_name(opcode) + " (layer " + std::to_string(layer) +
           ", position " + std::to_string(position) + ")";
  }

  SharedShadow* shadow() { return shadow_; }

  /// A point where the adversary may let others go first.
  void interleave() {
    if (checker_ != nullptr && (checker_->random() & 3u) == 0) {
      blocked_ = {};
      Fiber::suspend();
      abort_if_over();
    }
  }

 private:
  std::string name() const {
    return "gpu " + std::to_string(gpu_) + " sm " + std::to_string(sm_) + " " +
           kRoleNames[static_cast<uint32_t>(kind_)];
  }

  uint32_t position() const { return current_ == nullptr ? 0 : current_->position; }

  /// What bulk copies can do.
  void check_copy(const std::byte* target, const std::byte* source, uint32_t bytes) const {
    const auto all =
        reinterpret_cast<uintptr_t>(target) | reinterpret_cast<uintptr_t>(source) | bytes;
    if (bytes == 0 || all % kChunkBytes != 0) {
      fail("protocol", describe(), " copies ", bytes, " bytes; expected whole and aligned ",
           kChunkBytes, "-byte chunks");
    }
  }

  void give_back_slot(uint32_t index) {
    if (!holds_slot(index)) {
      fail("protocol", describe(), " arrives on the empty barrier of slot ", index,
           ", which it does not hold: twice, or before the slot was full");
    }
    held_slots_ &= ~(1u << index);
  }

  template <class SetBlocked>
  void block(SetBlocked set_blocked, const WaitInfo& info) {
    interleave();
    set_blocked();
    if (!ready()) {
      wait_ = info;
      const uint64_t begin = events_ != nullptr ? now_ns() : 0;
      Fiber::suspend();
      waited_ns_ += events_ != nullptr ? now_ns() - begin : 0;
      wait_ = {};
    }
    blocked_ = {};
    abort_if_over();
  }

  void abort_if_over() const {
    if (launch_->aborted()) {
      throw AbortLaunch{};
    }
  }

  void land_all() {
    while (!copies_->pending.empty()) {
      land(*copies_, 0, *checker_);
    }
  }

  Launch* launch_ = nullptr;
  uint32_t gpu_ = 0;
  uint32_t sm_ = 0;
  RoleKind kind_ = RoleKind::kController;
  SharedStorage* shared_ = nullptr;
  Checker* checker_ = nullptr;
  SharedShadow* shadow_ = nullptr;
  CopyQueue* copies_ = nullptr;
  uint32_t agent_ = 0;
  Clock clock_;
  Blocked blocked_;
  WaitInfo wait_;
  const InstructionSlot* current_ = nullptr;
  uint32_t unread_ = 0;
  uint32_t unwritten_ = 0;
  uint32_t held_slots_ = 0;  // a bit a slot
  bool stale_ = false;       // acquired since the last proxy fence
  std::vector<TraceEvent>* events_ = nullptr;
  uint64_t waited_ns_ = 0;
};

}  // namespace terrazzo::host
