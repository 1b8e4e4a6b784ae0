// What the simulator remembers of a GPU's memory: counters, who waits for them, and L2.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "simulate/sim_program.hpp"
#include "simulate/sm_flow.hpp"

namespace terrazzo {

/// Counters of one GPU. A waiter is an SM; it waits for one run of counters after the other.
class SimCounters {
 public:
  explicit SimCounters(uint32_t size) : cells_(size) {}

  struct Cell {
    uint32_t value = 0;
    double seen_ns = 0;    // when waiters see the last increment
    uint32_t awaited = 0;  // the least value that a waiter waits for
    std::vector<uint32_t> waiters;
  };
  Cell& at(uint32_t index) { return cells_[index]; }
  const Cell& at(uint32_t index) const { return cells_[index]; }
  uint32_t size() const { return static_cast<uint32_t>(cells_.size()); }

 private:
  std::vector<Cell> cells_;
};

/// L2 as a memory of the last bytes that came in: an object is there as long as fewer than
/// `capacity` bytes have come in since somebody began to load it or wrote it. What instructions
/// load comes in while they run: `fill` says how many bytes a nanosecond.
class SimCache {
 public:
  SimCache(uint32_t objects, double capacity) : capacity_(capacity), entries_(objects) {}

  /// Moves on to `now`, at the rate set last.
  void settle(double now) {
    filled_ += (now - at_) * fill_;
    at_ = now;
  }
  void set_fill(double fill) { fill_ = fill; }

  /// Bytes of an operand that come from HBM.
  double load(const SimOperand& operand, int32_t layer) {
    if (operand.object == kNoObject) {
      return 0;
    }
    Entry& entry = entries_[operand.object];
    const bool held = entry.touched && filled_ - entry.stamp <= capacity_ &&
                      (!operand.of_layer || entry.layer == layer);
    entry = {filled_, layer, true};
    return held ? 0 : operand.bytes;
  }

  void write(uint32_t object, double bytes, int32_t layer) {
    filled_ += bytes;
    if (object != kNoObject) {
      entries_[object] = {filled_, layer, true};
    }
  }

 private:
  struct Entry {
    double stamp = 0;
    int32_t layer = 0;
    bool touched = false;
  };
  double capacity_;
  double at_ = 0;
  double fill_ = 0;
  double filled_ = 0;  // bytes so far
  std::vector<Entry> entries_;
};

/// Finds the SM whose next event comes first; of equal ones the lowest.
class EventTree {
 public:
  explicit EventTree(uint32_t count) {
    while (leaves_ < count) {
      leaves_ *= 2;
    }
    times_.assign(leaves_, kNever);
    winners_.resize(2 * leaves_);
    for (uint32_t i = 0; i < leaves_; ++i) {
      winners_[leaves_ + i] = i;
    }
    rebuild();
  }

  double time(uint32_t index) const { return times_[index]; }
  uint32_t first() const { return winners_[1]; }

  void set(uint32_t index, double time) {
    if (times_[index] == time) {
      return;
    }
    times_[index] = time;
    for (uint32_t node = (leaves_ + index) / 2; node > 0; node /= 2) {
      play(node);
    }
  }
  /// Without the matches; call `rebuild` afterwards.
  void set_only(uint32_t index, double time) { times_[index] = time; }
  void rebuild() {
    for (uint32_t node = leaves_ - 1; node > 0; --node) {
      play(node);
    }
  }

 private:
  void play(uint32_t node) {
    const uint32_t left = winners_[2 * node];
    const uint32_t right = winners_[2 * node + 1];
    winners_[node] = times_[right] < times_[left] ? right : left;
  }

  uint32_t leaves_ = 1;
  std::vector<double> times_;
  std::vector<uint32_t> winners_;
};

}  // namespace terrazzo
