// What all roles of a launch on one GPU share; plain data, filled by the host.
#pragma once

#include <cstdint>

#include "terrazzo/core/trace_event.hpp"

namespace terrazzo::sm90 {

/// What the first role to give up saw; in host-mapped memory.
struct WatchdogReport {
  uint32_t raised;
  uint32_t gpu;
  uint32_t sm;
  uint32_t role;      // RoleKind
  uint32_t position;  // of its instruction in the queue, or ~0
  int32_t layer;
  uint32_t opcode;
  uint32_t wait_kind;  // WaitKind
  uint32_t index;      // slot, stage or counter
  uint32_t seen;
  uint32_t wanted;
};

/// Events of one GPU; `count` may pass `capacity`: the rest is lost.
struct TraceBuffer {
  TraceEvent* events;
  uint32_t* count;
  uint32_t capacity;
};

/// What all roles of a launch on one GPU share.
struct LaunchView {
  uint32_t* abort_flag;    // this GPU's, in its own memory
  WatchdogReport* report;  // host-mapped
  uint64_t watchdog_ns;
  uint32_t gpu;
  uint32_t world;  // more than 1: counters take system scope
  TraceBuffer trace;
};

}  // namespace terrazzo::sm90
