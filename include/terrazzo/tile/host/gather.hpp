// Gathered rows: pieces of tile rows and sums of squares that come from scattered places.
#pragma once

#include "terrazzo/arch/host/simd/simd.hpp"
#include "terrazzo/arch/host/slot.hpp"
#include "terrazzo/tile/host/tiles.hpp"

namespace terrazzo::host {

/// vector[r] += value_of(line, r) for each of `lines` lines, in ascending order.
template <class ValueOf>
inline void add_values(RowVector& vector, uint32_t rows, uint32_t lines, ValueOf value_of) {
  for (uint32_t row = 0; row < rows; ++row) {
    for (uint32_t line = 0; line < lines; ++line) {
      vector.values[row] += value_of(line, row);
    }
  }
}

/// Rows from `first_row` of a slot of 128-byte bf16 rows, each swizzled for row `source_row(r)` of
/// the tile it comes from.
template <class SourceRow>
inline void load_gathered_rows(Panel& out, const Slot& slot, uint32_t first_row, uint32_t rows,
                               SourceRow source_row) {
  for (uint32_t row = 0; row < rows; ++row) {
    const uint32_t swizzle = source_row(row) & 7u;
    const std::byte* const base = slot.read((first_row + row) * kRowBytes, kRowBytes);
    load_row(out.values[row], base - swizzle * kRowBytes, swizzle);
  }
}

/// panel[r][c] *= factors[r] * weight[c], the row's factor first.
inline void scale_panel(Panel& panel, const RowVector& factors, const bf16* weight, uint32_t rows) {
  for (uint32_t row = 0; row < rows; ++row) {
    for (uint32_t col = 0; col < kPanelCols; ++col) {
      panel.values[row][col] = panel.values[row][col] * factors.values[row] * to_float(weight[col]);
    }
  }
}

}  // namespace terrazzo::host
