// The roles of one simulated SM.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>

#include "simulate/sim_program.hpp"
#include "simulate/sm_flow.hpp"

namespace terrazzo {

/// An instruction in flight on an SM.
struct SimEntry {
  const SimInstruction* code = nullptr;
  uint32_t position = 0;
  int32_t layer = 0;
  double claimed_ns = 0;
  double hbm_bytes = 0;
};

enum class LoaderState : uint8_t { kIdle, kWaiting, kStarting, kLoading };
enum class ConsumerState : uint8_t { kIdle, kStarting, kStreaming, kBlocked, kTail };

struct SimSm {
  static constexpr uint32_t kInstructionRing = 4;  // instructions in flight on an SM

  std::array<SimEntry, kInstructionRing> entries;
  // How many instructions each has begun or, for `claimed`, put into the instruction ring.
  uint32_t claimed = 0;
  uint32_t loaded = 0;  // whose load is finished
  uint32_t consumed = 0;
  uint32_t stored = 0;
  SmFlow flow;
  LoaderState loader = LoaderState::kIdle;
  ConsumerState consumer = ConsumerState::kIdle;
  bool storing = false;
  bool has_claim = false;    // a claim is under way, or has been made for the current load
  bool at_end = false;       // the queue is empty
  bool has_pending = false;  // a claimed instruction waits for room in the instruction ring
  SimEntry pending;
  double claim_ns = kNever;
  double loader_ns = kNever;
  double consumer_ns = kNever;
  double store_ns = kNever;
  double seen_ns = 0;         // when the waits that were met so far were seen
  double last_load_ns = -1;   // end of the last load: what follows at once pays no latency
  uint32_t wait_index = 0;    // the run of counters that the loader waits for, and
  uint32_t wait_counter = 0;  // how far into it

  // For the trace.
  double load_begin_ns = 0;
  double load_start_ns = 0;  // of the copies
  double load_waited_ns = 0;
  double consume_begin_ns = 0;
  double consume_waited_ns = 0;
  double tail_begin_ns = 0;
  double store_begin_ns = 0;
  double stored_ns = 0;  // end of the last store

  SimEntry& entry(uint32_t count) { return entries[count % kInstructionRing]; }

  double next(double ring) const {
    const double timers = std::min(std::min(claim_ns, loader_ns), std::min(consumer_ns, store_ns));
    return std::min(timers, flow.next(ring, has_claim));
  }
};

}  // namespace terrazzo
