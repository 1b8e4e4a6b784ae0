// A device as the simulator sees it: what each kind of instruction takes alone, and what is shared.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lower/work.hpp"

namespace terrazzo {

/// Instructions that cost alike: an opcode, or its GEMM form for few tokens.
inline constexpr uint32_t kNumKinds = 2 * kNumOpcodes;

constexpr uint32_t kind_of(const Instruction& instruction) {
  return static_cast<uint32_t>(instruction.opcode) +
         ((instruction.flags & kSmallTokens) != 0 ? kNumOpcodes : 0);
}
/// "gate_up_silu", "gate_up_silu.small".
std::string kind_name(uint32_t kind);

/// Times of one kind of instruction on an SM that has the device for itself.
struct KindCost {
  double load_slot_ns = 0;          // loader: one slot, while the ring has room
  double consume_ns_per_mflop = 0;  // consumers: per million FLOPs issued to the tensor cores
  double consume_slot_ns = 0;       // consumers: one slot
  double consume_fixed_ns = 0;      // consumers: after the stream
  double consume_stage_ns = 0;      // consumers: one output panel, after the stream
  double store_fixed_ns = 0;        // storers: one instruction, after the consumers
  double store_stage_ns = 0;        // storers: one output panel, after the consumers
};

struct CostModel {
  uint32_t num_sms = 132;
  double ring_slots = 12;          // that the loader may be ahead of the consumers
  double hbm_gbps = 0;             // of a GPU
  double l2_gbps = 0;              // of a GPU, what the rings take in
  double l2_per_hbm = 0;           // of that rate, what a byte from HBM takes besides
  double nvlink_gbps = 0;          // of a GPU, outwards
  double sm_peer_gbps = 0;         // outwards from one SM
  double tensor_tflops = 0;        // of a GPU at any moment, while HBM is idle
  double tflops_per_hbm_tbps = 0;  // of these, what the power for a TB/s of HBM costs
  // What the power cap allows on average at the highest clock; 0: anything. Beyond, the clock
  // falls.
  double power_tflops = 0;
  double power_tflops_per_hbm_tbps = 0;  // of these, what a TB/s of HBM costs
  double cache_bytes = 0;       // of L2: what was loaded this many bytes ago is still there
  double launch_ns = 0;         // of a step, before the first claim and after the last store
  double claim_ns = 0;          // from the loader's word to the instruction in the ring
  double handover_ns = 0;       // from one instruction to the next in a role
  double load_latency_ns = 0;   // from a copy's issue to its data, where nothing is under way
  double store_latency_ns = 0;  // from the last store's issue to its completion
  double signal_ns = 0;         // from a completed store to a waiting loader, inside a GPU
  double peer_signal_ns = 0;    // the same between GPUs
  KindCost kinds[kNumKinds];

  /// Sets one value by its name, such as "hbm_gbps" or "lm_head.small.load_slot_ns". Throws `Error`
  /// for a name that is not in `fields()` and for values that are negative or not finite.
  void set(const std::string& name, double value);
  double get(const std::string& name) const;
  static std::vector<std::string> fields();

  /// Throws `Error` unless all capacities are positive.
  void check_complete() const;
};

}  // namespace terrazzo
