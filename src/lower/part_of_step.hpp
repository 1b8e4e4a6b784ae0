// Parts of a lowered step, for measurements: what its instructions of one kind take, and what an
// instruction takes that does nothing.
#pragma once

#include <array>
#include <span>
#include <string_view>

#include "lower/lowered_step.hpp"
#include "terrazzo/core/shape.hpp"

namespace terrazzo {

/// The opcode of this name; throws `Error`, which lists the names, if there is none.
Opcode opcode_named(std::string_view name);

/// Drops all instructions but those of these kinds and step_end, and all waits of what is left: the
/// results mean nothing, the work of these kinds is the step's.
void keep_only(LoweredStep& step, std::span<const Opcode> opcodes);

/// A program of `count` instructions that move and compute nothing (embed, of no rows and no
/// panels), then step_end. One GPU.
LoweredStep empty_step(uint32_t count, const ModelShape& shape);

/// Instructions of each kind that one GPU runs, those of the body once a layer.
std::array<uint64_t, kNumOpcodes> count_instructions(const LoweredStep& step, uint32_t gpu);

}  // namespace terrazzo
