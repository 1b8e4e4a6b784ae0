// What a step gives, and what its rows may ask of the step before; the same on all machines.
#pragma once

#include <cstdint>
#include <vector>

#include "lower/step_request.hpp"
#include "terrazzo/core/check.hpp"

namespace terrazzo {

struct StepOutputs {
  std::vector<int32_t> tokens;  // [logit rows]
  std::vector<float> logprobs;  // [logit rows]
  std::vector<float> logits;    // [rows that asked, vocab]
};

/// Throws `Error` if a row stands for a token that the step before, with `sampled` logit rows, did
/// not sample.
inline void check_placeholders(const StepRequest& request, size_t sampled) {
  for (size_t row = 0; row < request.token_ids.size(); ++row) {
    const int64_t token = request.token_ids[row];
    if (-token > static_cast<int64_t>(sampled)) [[unlikely]] {
      fail("step", "row ", row, ": the token ", token,
           " stands for a row that the step before sampled, but it sampled ", sampled, " rows");
    }
  }
}

}  // namespace terrazzo
