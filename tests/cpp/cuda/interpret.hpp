// What stands for the megakernel on the fake runtime.
#pragma once

#include <cstdint>
#include <vector>

#include "machine/cuda/megakernel.hpp"

namespace terrazzo::testing {

/// All launches of a step: what each rank was given, in the order of ranks.
using Step = std::vector<cuda::RankParams>;

constexpr uint64_t kShortestWaitNs = 1000;  // a watchdog below it ends any launch

/// Runs all ranks' programs, each on a few of its `num_sms` SMs. False if they did not come to
/// their end and nothing was reported.
bool interpret(const Step& step, uint32_t num_sms);

}  // namespace terrazzo::testing
