// What all roles of one rank of a launch share; plain data, filled by the host.
#pragma once

#include <cstdint>

#include "terrazzo/core/geometry.hpp"
#include "terrazzo/core/trace_event.hpp"

namespace terrazzo::sm90 {

/// What the first role of a rank to give up saw; in host-mapped memory.
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
  uint64_t at_ns;  // of globaltimer: when it told
};

/// Events of one rank; `count` may pass `capacity`: the rest is lost.
struct TraceBuffer {
  TraceEvent* events;
  uint32_t* count;
  uint32_t capacity;
};

/// Random sleeps of controllers (behind a claim) and storers (before a signal), for tests of the
/// protocol. The seed also makes some ranks many times slower than others.
struct DelayPlan {
  uint32_t seed;
  uint32_t most_ns;  // 0: none
};

/// In each rank's own memory.
struct AbortBoard {
  uint32_t raised;            // what the rank's roles poll
  uint32_t* flags[kMaxGpus];  // `raised` of every rank, some of them twice: who gives up raises all
};

/// What all roles of one rank share.
struct LaunchView {
  AbortBoard* abort;
  WatchdogReport* report;  // host-mapped
  uint64_t watchdog_ns;
  uint32_t gpu;           // the rank
  uint32_t world;         // more than 1: counters take system scope
  uint32_t* last_claims;  // [SMs] queue positions, host-mapped: they outlive a lost GPU; or null
  TraceBuffer trace;
  DelayPlan delays;
};

}  // namespace terrazzo::sm90
