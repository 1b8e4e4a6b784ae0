// An mbarrier: arrivals and expected bytes make a phase; waiters test the parity of the phase they
// want.
#pragma once

#include <cstdint>
#include <vector>

namespace terrazzo::host {

/// Used by the roles of one SM only, and these share a thread: plain integers.
class Barrier {
 public:
  void init(uint32_t arrivals) {
    arrivals_ = arrivals;
    pending_ = arrivals;
    bytes_ = 0;
    phase_ = 0;
    clock.clear();
    next_clock.clear();
  }

  /// True once the phase with parity `parity` is complete.
  bool test(uint32_t parity) const { return (phase_ & 1u) != parity; }

  /// False if more arrive in this phase than the barrier was made for.
  [[nodiscard]] bool arrive() {
    if (pending_ == 0) {
      return false;
    }
    --pending_;
    complete_if_done();
    return true;
  }

  void expect_bytes(uint32_t bytes) { bytes_ += bytes; }

  void complete_bytes(uint32_t bytes) {
    bytes_ -= bytes;
    complete_if_done();
  }

  // Vector clocks of the checked machine: what a completed phase publishes, and what the open one
  // gathers.
  std::vector<uint32_t> clock;
  std::vector<uint32_t> next_clock;

 private:
  void complete_if_done() {
    if (pending_ == 0 && bytes_ == 0) {
      pending_ = arrivals_;
      ++phase_;
      clock = next_clock;
    }
  }

  uint32_t arrivals_ = 0;
  uint32_t pending_ = 0;
  uint32_t bytes_ = 0;
  uint32_t phase_ = 0;
};

}  // namespace terrazzo::host
