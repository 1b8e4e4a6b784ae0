// Opcodes, and the 128-byte instruction with its waits and signals.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "terrazzo/core/config.hpp"

namespace terrazzo {

inline constexpr uint32_t kIsaVersion = 1;

enum class Opcode : uint16_t {
#define TERRAZZO_INSTRUCTION(ENUMERATOR, NAME) ENUMERATOR,
#include "terrazzo/core/isa.def"
#undef TERRAZZO_INSTRUCTION
};

inline constexpr const char* kOpcodeNames[] = {
#define TERRAZZO_INSTRUCTION(ENUMERATOR, NAME) #NAME,
#include "terrazzo/core/isa.def"
#undef TERRAZZO_INSTRUCTION
};
inline constexpr uint32_t kNumOpcodes = sizeof(kOpcodeNames) / sizeof(kOpcodeNames[0]);

constexpr const char* opcode_name(Opcode opcode) {
  const auto index = static_cast<uint32_t>(opcode);
  return index < kNumOpcodes ? kOpcodeNames[index] : "unknown";
}

/// Satisfied when counters [first, first + count) of the layer's counter block have all reached
/// `target`. `first` may reach into the previous layer's block (negative). count 0: no wait.
struct Wait {
  int32_t first;
  uint16_t count;
  uint16_t reserved;
  uint32_t target;
};

/// Each storer adds `increment` to counters [first, first + count) on every GPU of the mask `gpus`.
/// count 0: no signal.
struct Signal {
  int32_t first;
  uint16_t count;
  uint8_t increment;
  uint8_t gpus;
};

enum class Matrix : uint32_t { kQkv, kO, kGateUp, kDown, kLmHead };
inline constexpr uint32_t kNumMatrices = 5;

/// All GEMM kinds. A plain tile: 128 token rows x up to 256 output columns. With `kSmallTokens`: up
/// to 64 token rows x `panels` blocks of 64 weight rows, operands swapped. gate_up_silu takes an
/// even number of panels (a gate and an up half); lm_head starts at a multiple of 4 and takes all
/// up to the next.
struct GemmArgs {
  uint32_t row_block;    // 128-row block of the step's rows (lm_head: of the compact rows)
  uint32_t rows;         // valid rows in it, from its first
  uint32_t first_panel;  // first 64-column panel of the weight's output columns
  uint32_t panels;       // 64-column panels of this tile, 1 to 4
  uint32_t k_panels;     // 64-deep k tiles
};

struct EmbedArgs {
  uint32_t row_block;
  uint32_t rows;
  uint32_t first_panel;  // of the hidden columns
  uint32_t panels;       // 1 to 4
};

/// One query head, rows [row_begin, row_begin + rows) of a row block, all of one sequence.
struct AttendPrefillArgs {
  uint32_t row_block;
  uint32_t row_begin;  // within the block
  uint32_t rows;
  uint32_t kv_head;            // local
  uint32_t q_head;             // local
  uint32_t position;           // of row_begin
  uint32_t page_table_offset;  // of the sequence in StepTables::page_ids
};

/// One query token a row for rows [row, row + rows), rows <= 16, all in one 64-row half, one KV
/// head; pages of splits [split_begin, split_begin + num_splits) (an end past the context is cut).
struct AttendDecodeArgs {
  uint32_t row;  // of the step
  uint32_t rows;
  uint32_t kv_head;  // local
  uint32_t split_begin;
  uint32_t num_splits;
  uint32_t partial_slot;  // kPartial: first slot of the scratch (one a row and split)
  uint32_t pages;         // of all rows together
};

/// Combines `num_splits` partial results of one row and KV head group.
struct AttendMergeArgs {
  uint32_t row;
  uint32_t kv_head;  // of the attention buffer: global; local where O is sharded
  uint32_t num_splits;
  uint32_t partial_slot;
};

struct ReduceArgs {
  uint32_t row_block;
  uint32_t rows;
  uint32_t first_panel;
  uint32_t panels;
};

struct GatherArgs {
  uint32_t compact_block;  // 128 compact rows
  uint32_t rows;
  uint32_t first_panel;  // of the hidden columns
  uint32_t panels;       // 1 to 4
};

struct SampleArgs {
  uint32_t compact_row;  // first
  uint32_t rows;         // at most 64, all in one half block
};

union Operands {
  GemmArgs gemm;
  EmbedArgs embed;
  AttendPrefillArgs attend_prefill;
  AttendDecodeArgs attend_decode;
  AttendMergeArgs attend_merge;
  ReduceArgs reduce;
  GatherArgs gather;
  SampleArgs sample;
  uint32_t words[18];
};

inline constexpr uint32_t kNumWaits = 3;
inline constexpr uint32_t kNumSignals = 2;

enum InstructionFlags : uint8_t {
  kSmallTokens = 1,  // GEMM: operands swapped
  kPartial = 2,      // attend_decode: write unnormalised partial results for attend_merge
  kBriefRun = 4,     // brief ones follow in the queue: an SM may claim several at once
};

struct Instruction {
  Opcode opcode;
  uint8_t flags;
  // Of body instructions: runs for layer (iteration + layer_offset). A body instruction with an
  // offset may also stand in the prologue, which is iteration -1.
  uint8_t layer_offset;
  Wait waits[kNumWaits];
  Signal signals[kNumSignals];
  Operands args;
};

/// The first word of an instruction.
struct InstructionHead {
  Opcode opcode;
  uint8_t flags;
  uint8_t layer_offset;
};

static_assert(sizeof(InstructionHead) == sizeof(uint32_t) && offsetof(Instruction, flags) == 2 &&
              offsetof(Instruction, layer_offset) == 3);
static_assert(sizeof(Wait) == 12 && sizeof(Signal) == 8 && sizeof(Operands) == 72);
static_assert(sizeof(Instruction) == 128 && std::is_trivially_copyable_v<Instruction>);
static_assert(offsetof(Instruction, waits) == 4 && offsetof(Instruction, signals) == 40 &&
              offsetof(Instruction, args) == 56);

}  // namespace terrazzo
