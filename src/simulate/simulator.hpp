// Discrete-event simulation of a step: `world` GPUs of SMs that run the same programs as the
// machines do, with the times of a cost model, and leave the same trace.
//
// On an SM the roles are pipelined as in docs/architecture.md: the controller claims one
// instruction ahead, the loader runs ahead of the consumers by the ring, storers overlap with the
// next instruction. HBM, L2 and the tensor cores' power are shared by all SMs of a GPU: each gets
// what it asks for until a resource is used up, then all are slowed alike.
#pragma once

#include <cstdint>
#include <vector>

#include "lower/lowered_step.hpp"
#include "simulate/cost_model.hpp"
#include "terrazzo/core/trace_event.hpp"

namespace terrazzo {

class ClaimOrder;

struct SimOptions {
  uint32_t num_sms = 0;  // of a GPU; 0: as many as the model says
  uint32_t layers = 0;   // that the body runs for; 0: all
  bool trace = false;
  double clock = 0;  // of the SMs, in parts of their highest; 0: what the step's power allows
  // A shared resource may be overdrawn, or left idle by the slowed, by this part before its shares
  // are worked out again. 0 is exact and slow.
  double tolerance = 0.02;
  ClaimOrder* order = nullptr;  // who decides what is claimed next; null: the queue's order
};

/// Decides in which order a queue's positions are claimed, by what is going on.
class ClaimOrder {
 public:
  /// Whether all that an instruction waits for has been signalled.
  using Ready = bool (*)(const void* context, uint32_t gpu, uint32_t position);

  virtual ~ClaimOrder() = default;
  /// The position to claim now on `gpu`, each once; the queue's size when all are claimed.
  virtual uint32_t next(uint32_t gpu, Ready ready, const void* context) = 0;
  /// An SM has finished computing the instruction at this position.
  virtual void finished(uint32_t gpu, uint32_t position) = 0;
};

/// Sums over one GPU.
struct SimTotals {
  double hbm_bytes = 0;  // read
  double l2_bytes = 0;   // into the rings
  double tensor_flops = 0;
  double peer_bytes = 0;
};

struct SimResult {
  double clock = 1;                // that the SMs ran at
  double step_ns = 0;              // until the last store, launch included
  std::vector<SimTotals> totals;   // [gpu]
  std::vector<TraceEvent> events;  // with `trace`: of every role but the controller
};

/// Throws `Error` when the model lacks a capacity, or when the programs deadlock.
SimResult simulate(const LoweredStep& step, const ModelShape& shape, const CostModel& model,
                   const SimOptions& options = {});

}  // namespace terrazzo
