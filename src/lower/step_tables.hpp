// The tables that a step's instructions look up, from its request.
#pragma once

#include "lower/lowered_step.hpp"
#include "lower/step_request.hpp"

namespace terrazzo {

/// Fills rows, page tables and logit rows; hands out the logits slots.
void fill_tables(LoweredStep& step, const StepRequest& request);

}  // namespace terrazzo
