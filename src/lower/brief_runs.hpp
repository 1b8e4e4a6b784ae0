// Runs of brief instructions, in which SMs claim several at once.
#pragma once

#include "lower/lowered_step.hpp"

namespace terrazzo {

/// An instruction is marked when at least so many more follow it in its segment: about what all SMs
/// claim until the slowest has come to its next claim.
inline constexpr uint32_t kBriefRunLength = 1024;

/// Instructions whose work takes about as long as a claim: at most kClaimAheadSlots slots.
constexpr bool is_brief(Opcode opcode) {
  return opcode == Opcode::kEmbed || opcode == Opcode::kGatherNorm ||
         opcode == Opcode::kAttendMerge;
}

/// Sets kBriefRun where it holds. To be called when the order is final.
void mark_brief_runs(LoweredStep& step);

}  // namespace terrazzo
