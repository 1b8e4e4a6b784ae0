// A step's programs with the costs of a device: what the simulator runs.
#pragma once

#include <cstdint>
#include <vector>

#include "lower/lowered_step.hpp"
#include "simulate/cost_model.hpp"

namespace terrazzo {

inline constexpr uint32_t kNoObject = 0xffffffffu;

/// Bytes that an instruction loads of one thing that L2 may hold: a column tile of a weight, a row
/// block of a buffer, the cached tokens of a sequence and head.
struct SimOperand {
  uint32_t object = kNoObject;
  double bytes = 0;
  bool of_layer = false;  // every layer has its own
};

struct SimInstruction {
  const Instruction* instruction;
  double slots;
  double slot_ns;    // loader, alone
  double tensor_ns;  // consumers: the part of the stream that the clock slows
  double stream_ns;  // consumers: the rest of the stream
  double tail_ns;    // consumers, after the stream
  double store_ns;   // storers
  double load_bytes;
  double stream_bytes;  // of these, from HBM in any case and past L2: keys and values of decoding
  double tensor_flops;
  double local_store_bytes;
  double peer_store_bytes;
  SimOperand operands[3];  // what else it loads
  uint32_t output;         // object that it writes
};

struct SimProgram {
  std::vector<SimInstruction> code;  // prologue, body, epilogue
  ProgramView view;

  /// Where in `code` the instruction of this place lies.
  const SimInstruction& at(const QueuePlace& place) const;
};

/// One a GPU. `step` must outlive them. With `layers` other than 0 the body runs that many times.
/// `clock` of the SMs, in parts of that at which the model's times hold.
std::vector<SimProgram> compile_programs(const LoweredStep& step, const ModelShape& shape,
                                         const CostModel& model, uint32_t layers, double clock = 1);

/// Objects of all GPUs' programs are numbered below this.
uint32_t num_objects(const std::vector<SimProgram>& programs);

}  // namespace terrazzo
