// What all virtual SMs of one launch share: the abort flag, the first error, the deadline.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include "terrazzo/core/isa.hpp"
#include "terrazzo/core/roles.hpp"

namespace terrazzo::host {

/// What a role waits for, as the diagnosis names it.
struct WaitInfo {
  WaitKind kind = WaitKind::kNone;
  uint32_t index = 0;   // slot, stage or counter (index in the bank)
  uint32_t seen = 0;    // counters: value when the report was made
  uint32_t wanted = 0;  // counters: target; else the parity
};

/// One blocked role in a report.
struct BlockedRole {
  uint32_t gpu;
  uint32_t sm;
  RoleKind role;
  bool has_instruction;
  Instruction instruction;
  int32_t layer;
  uint32_t position;  // in the queue
  WaitInfo wait;
};

enum class FailureKind : uint8_t { kNone, kDeadlock, kWatchdog, kCheck };

/// Thrown through a role's stack when the launch is over for another's fault.
struct AbortLaunch {};

/// One launch on all virtual GPUs.
class Launch {
 public:
  explicit Launch(uint64_t watchdog_ns) : watchdog_(watchdog_ns) {}

  bool aborted() const { return aborted_.load(std::memory_order_acquire); }

  /// The first failure is kept; all others follow from it.
  void fail(FailureKind kind, std::string message, std::vector<BlockedRole> blocked = {}) {
    const std::lock_guard lock(mutex_);
    if (kind_ == FailureKind::kNone) {
      kind_ = kind;
      message_ = std::move(message);
      blocked_ = std::move(blocked);
    }
    aborted_.store(true, std::memory_order_release);
  }

  /// Some thread's roles went on; a hang is when no thread's do.
  void note_progress() { progress_.fetch_add(1, std::memory_order_relaxed); }
  uint64_t progress() const { return progress_.load(std::memory_order_relaxed); }

  std::chrono::nanoseconds watchdog() const { return std::chrono::nanoseconds(watchdog_); }
  FailureKind kind() const { return kind_; }
  const std::string& message() const { return message_; }
  const std::vector<BlockedRole>& blocked() const { return blocked_; }

 private:
  uint64_t watchdog_;
  std::atomic<bool> aborted_{false};
  std::atomic<uint64_t> progress_{0};
  std::mutex mutex_;
  FailureKind kind_ = FailureKind::kNone;
  std::string message_;
  std::vector<BlockedRole> blocked_;
};

}  // namespace terrazzo::host
