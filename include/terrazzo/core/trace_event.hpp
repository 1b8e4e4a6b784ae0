// A record of one instruction in one role.
#pragma once

#include <cstdint>

#include "terrazzo/core/isa.hpp"
#include "terrazzo/core/roles.hpp"

namespace terrazzo {

/// One instruction in one role: times in nanoseconds of the machine's clock.
struct TraceEvent {
  uint64_t begin_ns;
  uint64_t end_ns;
  uint64_t waited_ns;  // of which blocked on barriers and counters
  uint32_t position;   // in the queue
  int32_t layer;
  uint16_t sm;
  uint8_t gpu;
  RoleKind role;
  Opcode opcode;
  uint16_t reserved;
};
static_assert(sizeof(TraceEvent) == 40);

}  // namespace terrazzo
