// A program: a prologue, a body that runs once a layer, an epilogue.
#pragma once

#include <cstdint>

#include "terrazzo/core/isa.hpp"

namespace terrazzo {

/// Counters come in blocks of `counters_per_block`: block 0 for the prologue (it plays the part of
/// "layer -1"), then one a layer, then one for the epilogue. After them: see `BankLayout`.
struct ProgramView {
  const Instruction* prologue;
  const Instruction* body;
  const Instruction* epilogue;
  uint32_t prologue_size;
  uint32_t body_size;
  uint32_t epilogue_size;
  uint32_t num_layers;
  uint32_t counters_per_block;

  constexpr TERRAZZO_FN uint32_t queue_size() const {
    return prologue_size + num_layers * body_size + epilogue_size;
  }
};

/// Place of one queue position: which instruction, and which layer it runs for.
struct QueuePlace {
  const Instruction* instruction;
  int32_t layer;  // -1 in the prologue (but for offsets), num_layers in the epilogue
  bool skip;      // a body instruction whose layer offset leads past the last layer
};

constexpr TERRAZZO_FN QueuePlace place_of(const ProgramView& program, uint32_t position) {
  if (position < program.prologue_size) {
    const Instruction* instruction = program.prologue + position;
    return {instruction, instruction->layer_offset - 1, false};
  }
  position -= program.prologue_size;
  const uint32_t body = program.num_layers * program.body_size;
  if (position < body) {
    const Instruction* instruction = program.body + position % program.body_size;
    const uint32_t layer = position / program.body_size + instruction->layer_offset;
    return {instruction, static_cast<int32_t>(layer), layer >= program.num_layers};
  }
  return {program.epilogue + (position - body), static_cast<int32_t>(program.num_layers), false};
}

/// A queue position before its instruction has been read.
struct QueueEntry {
  const Instruction* instruction;
  int32_t iteration;  // of the body; -1 in the prologue, num_layers in the epilogue

  constexpr TERRAZZO_FN QueuePlace place(const ProgramView& program, uint32_t layer_offset) const {
    const auto last = static_cast<int32_t>(program.num_layers);
    const int32_t layer = iteration + static_cast<int32_t>(layer_offset);
    return {instruction, layer, iteration < last && layer >= last};
  }
};

/// `place_of` for ever later positions, without a division between a claim and its instruction.
class QueueWalk {
 public:
  explicit constexpr TERRAZZO_FN QueueWalk(const ProgramView& program)
      : program_(program), end_(program.prologue_size) {}

  /// Of a position of the queue, not before the last one.
  constexpr TERRAZZO_FN QueueEntry at(uint32_t position) {
    while (position >= end_) {
      ++iteration_;
      begin_ = end_;
      end_ += iteration_ < static_cast<int32_t>(program_.num_layers) ? program_.body_size
                                                                     : program_.epilogue_size;
    }
    const Instruction* const segment = iteration_ < 0 ? program_.prologue
                                       : iteration_ < static_cast<int32_t>(program_.num_layers)
                                           ? program_.body
                                           : program_.epilogue;
    return {segment + (position - begin_), iteration_};
  }

 private:
  const ProgramView& program_;
  int32_t iteration_ = -1;
  uint32_t begin_ = 0;  // positions [begin_, end_) are this iteration's
  uint32_t end_;
};

/// Index in the bank of counter `relative` as an instruction that runs for `layer` names it.
constexpr TERRAZZO_FN uint32_t counter_index(uint32_t counters_per_block, int32_t layer,
                                             int32_t relative) {
  return static_cast<uint32_t>((layer + 1) * static_cast<int32_t>(counters_per_block) + relative);
}

/// A counter bank: the queue head, the end counter, then the blocks.
struct BankLayout {
  static constexpr uint32_t kQueueHead = 0;
  static constexpr uint32_t kEnd = 32;     // its own 128-byte line
  static constexpr uint32_t kBlocks = 64;  // first counter of block 0

  static constexpr TERRAZZO_FN uint32_t size(uint32_t counters_per_block, uint32_t num_layers) {
    return kBlocks + counters_per_block * (num_layers + 2);
  }
};

}  // namespace terrazzo
