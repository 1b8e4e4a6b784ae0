// Whether an instruction's operands fit the step: what must hold before its accesses can be listed.
#pragma once

#include <string>

#include "lower/lowered_step.hpp"
#include "terrazzo/core/shape.hpp"

namespace terrazzo {

/// Empty when all is well, else what is wrong with the instruction at this place.
std::string operand_problem(const Instruction& instruction, uint32_t gpu, Segment segment,
                            const LoweredStep& step, const ModelShape& shape,
                            const StepLimits& limits);

/// The same for the step's tables: sizes within the limits, pages and slots in range.
std::string table_problem(const LoweredStep& step, const ModelShape& shape,
                          const StepLimits& limits);

}  // namespace terrazzo
