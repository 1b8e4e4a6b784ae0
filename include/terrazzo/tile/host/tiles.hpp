// Register tiles of the host machine. A consumer's rows are 0 .. 63, whichever operand is the
// weight.
#pragma once

#include "terrazzo/core/geometry.hpp"

namespace terrazzo::host {

/// fp32 accumulators of one consumer: [64 token rows][256 output columns].
struct Accumulator {
  alignas(64) float values[kHalfRows][kColTile];
};

/// 64 columns of them, on their way out.
struct Panel {
  alignas(64) float values[kHalfRows][kPanelCols];
};

/// One value a row.
struct RowVector {
  alignas(64) float values[kHalfRows];
};

}  // namespace terrazzo::host
