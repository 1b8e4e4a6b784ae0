// Copies of the checked machine that are on their way.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "terrazzo/arch/host/barrier.hpp"
#include "terrazzo/arch/host/checker.hpp"

namespace terrazzo::host {

class Role;

/// A copy that was issued and has not landed yet (checked machine).
struct PendingCopy {
  Role* role;
  std::byte* target;
  const std::byte* source;
  uint32_t bytes;
  Clock clock;        // of the role, at issue: what it acquires later does not order the copy
  Barrier* full;      // loads: the barrier that counts the bytes; stores: null
  uint8_t* valid;     // loads: the slot's shadow of the target
  uint32_t position;  // in the queue, of the instruction that issued it
  uint32_t* unread;   // stores: of the stage that they read
  std::vector<std::byte> taken;  // stores: the bytes, once read out of the stage
};

/// Copies in flight of all roles of a checked launch.
struct CopyQueue {
  std::vector<PendingCopy> pending;
};

}  // namespace terrazzo::host
