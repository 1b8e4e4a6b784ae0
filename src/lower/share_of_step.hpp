// One GPU's share of a step of several, for measurements: what the step would take if nobody ever
// waited for a peer.
#pragma once

#include "lower/lowered_step.hpp"

namespace terrazzo {

/// Leaves the program of `gpu` alone, and lowers each target to what that GPU itself will signal,
/// as if its peers' signals had come before. Results mean nothing, the work is the GPU's share.
void keep_share(LoweredStep& step, uint32_t gpu);

}  // namespace terrazzo
