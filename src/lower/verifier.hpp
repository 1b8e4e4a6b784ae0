// The verifier: proves of a step's programs that no run of them can hang or race, whatever the
// number of SMs, their speed and the order in which copies land.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lower/happens_before.hpp"
#include "lower/lowered_step.hpp"
#include "terrazzo/core/shape.hpp"

namespace terrazzo {

struct VerifyOptions {
  // All layers run the same body, so a few of them stand for all: the first after the prologue, one
  // between two others, the last before the epilogue. Layer offsets add to it.
  uint32_t max_layers = 3;
  uint32_t max_problems = 16;
  uint32_t sampled_rows = UINT32_MAX;  // of the step before; unknown: as many as the limits allow
};

/// Empty when the step is proved correct:
/// - operands and tables are in range and agree;
/// - every target is the sum of the signals that reach its counter, and every signal is awaited;
/// - queue order is topological across all GPUs: one SM a GPU cannot deadlock;
/// - all conflicting accesses are ordered by waits;
/// - every read finds bytes that this step, or legitimately an earlier one, wrote before it;
/// - every instruction is complete before its GPU's step_end.
std::vector<Problem> verify(const LoweredStep& step, const ModelShape& shape,
                            const StepLimits& limits, const VerifyOptions& options = {});

/// Verifies two consecutive steps. A kernel ends after the step_end of all GPUs, and each step_end
/// follows all work of its GPU; so everything in `first` happens before everything in `second`, and
/// what is left to check is that `second` finds what it takes over.
std::vector<Problem> verify_pair(const LoweredStep& first, const LoweredStep& second,
                                 const ModelShape& shape, const StepLimits& limits,
                                 const VerifyOptions& options = {});

/// One problem a line.
std::string to_string(const std::vector<Problem>& problems);

}  // namespace terrazzo
