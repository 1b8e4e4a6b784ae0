// Weaving: an order of a step's instructions in which attention of one part of the batch runs
// beside the products of the other part, and the end of a layer beside the start of the next.
//
// The row blocks are cut into two parts, A and B. One round of the body, for layer l:
//
//   attention of B in l      beside   O, gate and up, down of A in l, then QKV of A in l + 1
//   attention of A in l + 1  beside   O, gate and up, down of B in l, then QKV of B in l + 1
//
// What is of layer l + 1 has layer offset 1; its layer 0 is appended to the prologue. No wait,
// signal or operand changes: the order among instructions that depend on each other is the one that
// the counters ask for, so results are the same bit for bit.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

#include "lower/lowered_step.hpp"

namespace terrazzo {

/// How much attention of a round's half is issued before a part of its other work: percent of the
/// instructions, at equal distances of the other work's weight from none to all. Ascending.
using WeaveCurve = std::array<uint8_t, 33>;

/// Evenly over the first `percent` of the other work.
constexpr WeaveCurve even_curve(uint32_t percent) {
  WeaveCurve curve{};
  for (uint32_t i = 0; i < curve.size(); ++i) {
    const uint32_t part = percent == 0 ? 100 : 10000 * i / (percent * (curve.size() - 1));
    curve[i] = static_cast<uint8_t>(part < 100 ? part : 100);
  }
  return curve;
}

struct WeavePlan {
  uint32_t split_block = 0;  // first row block of part B; 0: the plain order, layer by layer
  // For attention of B beside the rest of A, and the other way round.
  std::array<WeaveCurve, 2> curves{even_curve(90), even_curve(90)};
};

/// A plan as a text: "plain", "4:80:95" (split block, percents of even curves), or with curves knot
/// by knot, two hexadecimal digits each: "4:000a14...:0008...".
std::string to_text(const WeavePlan& plan);
/// The plan of such a text; throws `Error` for anything else.
WeavePlan weave_plan_of(std::string_view text);

/// Reorders the programs of a lowered step. Throws `Error` when the step has no block to split at.
void weave(LoweredStep& step, const WeavePlan& plan);

/// Parts of a body's order that the planner may change without a new plan for the rest.
struct WeaveHalf {
  std::vector<uint32_t> attention;  // indices in the body
  std::vector<uint32_t> others;
  std::vector<double> weights;  // of the others: about how long each keeps an SM
};

/// The halves of a woven program's body.
std::array<WeaveHalf, 2> weave_halves(const GpuProgram& woven, uint32_t split_block);

}  // namespace terrazzo
