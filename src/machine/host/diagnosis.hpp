// What a launch that failed is told as.
#pragma once

#include <string>

#include "lower/lowered_step.hpp"
#include "terrazzo/arch/host/launch.hpp"
#include "terrazzo/vm/params.hpp"

namespace terrazzo::host {

/// The failure, then each blocked role: its instruction, what it waits for, value seen and wanted,
/// and the instructions that signal the counter.
std::string diagnosis(const Launch& launch, const LoweredStep& step);

}  // namespace terrazzo::host
