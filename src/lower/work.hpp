// What an instruction costs in quantities that do not depend on a machine: FLOPs, slots, bytes.
#pragma once

#include <cstdint>

#include "terrazzo/core/isa.hpp"
#include "terrazzo/vm/params.hpp"

namespace terrazzo {

struct Work {
  double flops = 0;         // of valid rows, columns and visible tokens; multiply and add count two
  double tensor_flops = 0;  // as issued to the tensor cores: with the padding of tiles and groups
  uint32_t slots = 0;       // of the ring
  uint32_t busy_slots = 0;  // twice those that the busier of the two consumers works on
  uint32_t stages = 0;      // output panels that both consumers hand to their storers
  uint64_t load_bytes = 0;  // into slots
  uint64_t weight_bytes = 0;       // of which constant data: weights, embeddings
  uint64_t kv_bytes = 0;           // of which keys and values
  uint64_t local_store_bytes = 0;  // to this GPU's memory
  uint64_t peer_store_bytes = 0;   // to other GPUs, all of them together
};

/// The work of a step's instructions. The step's tables must outlive it.
class WorkTable {
 public:
  WorkTable(const ModelShape& shape, const StepTables& tables);

  /// Work of an instruction that runs on `gpu`. Its operands must be in range.
  Work of(const Instruction& instruction, uint32_t gpu) const;

 private:
  void gemm(Work& work, const Instruction& instruction, uint32_t gpu) const;
  void attend_prefill(Work& work, const AttendPrefillArgs& args, uint32_t gpu) const;
  void attend_decode(Work& work, const Instruction& instruction, uint32_t gpu) const;
  void lm_head_outputs(Work& work, const Instruction& instruction, uint32_t gpu) const;
  void sample(Work& work, const SampleArgs& args) const;
  /// `bytes` to the owner of a row block.
  void store_to_owner(Work& work, uint32_t block, uint32_t gpu, uint64_t bytes) const;
  void store_attention(Work& work, uint32_t block, uint32_t gpu, uint64_t bytes) const;
  void store_everywhere(Work& work, uint64_t bytes) const;
  /// Panels of residual rows with their sums of squares.
  uint64_t residual_bytes(uint32_t rows, uint32_t panels) const;

  StepParams params_;  // shape and tables only: what operations ask for to count their slots
};

}  // namespace terrazzo
