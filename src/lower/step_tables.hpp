// The tables that a step's instructions look up, from its request.
#pragma once

#include <cstdint>
#include <vector>

#include "lower/lowered_step.hpp"
#include "lower/step_request.hpp"

namespace terrazzo {

/// Fills rows, page tables and logit rows; hands out the logits slots.
void fill_tables(LoweredStep& step, const StepRequest& request);

struct BlockRange {
  uint32_t first;
  uint32_t count;
};

/// For each compact block the row blocks whose `embed` reads what the last step sampled there. The
/// last layer's X of them says that every GPU has read it, so that it may be overwritten.
std::vector<BlockRange> sampled_readers(const LoweredStep& step, uint32_t compact_blocks);

}  // namespace terrazzo
