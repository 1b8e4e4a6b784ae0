// What the GPUs of a step send each other: the declared writes that land on another GPU's heap.
#pragma once

#include <cstdint>
#include <vector>

#include "lower/accesses.hpp"
#include "lower/lowered_step.hpp"

namespace terrazzo {

/// Bytes that instructions of one kind write to one buffer of a peer, and their signals to it.
struct PeerFlow {
  Opcode opcode;
  Buffer buffer;  // of the bytes; kCounters: a flow of signals
  uint32_t from;
  uint32_t to;
  uint64_t bytes;   // of signals: 4 each
  uint64_t writes;  // contiguous runs, or signals
};

/// All flows of a segment, of the body for one layer; by opcode, buffer, from, to. What an
/// instruction does on its own GPU is not in it.
std::vector<PeerFlow> peer_traffic(const LoweredStep& step, Segment segment,
                                   const ModelShape& shape, const StepLimits& limits);

}  // namespace terrazzo
