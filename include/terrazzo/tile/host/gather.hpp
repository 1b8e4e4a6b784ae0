// Gathered rows: pieces of tile rows and sums of squares that come from scattered places.
#pragma once

#include "terrazzo/arch/host/simd/simd.hpp"
#include "terrazzo/arch/host/slot.hpp"
#include "terrazzo/tile/host/tiles.hpp"

namespace terrazzo::host {

/// vector[r] += one float of each of `lines` lines, in ascending order. A line holds a group of 4
/// floats for each of `slot_rows` rows; `first_row + r` is the row there and `place_of(r)` the
/// place in its group.
template <class PlaceOf>
inline void add_gathered_lines(RowVector& vector, const Slot& slot, uint32_t lines,
                               uint32_t slot_rows, uint32_t first_row, uint32_t rows,
                               PlaceOf place_of) {
  constexpr uint32_t kGroupBytes = 4 * sizeof(float);
  for (uint32_t line = 0; line < lines; ++line) {
    for (uint32_t row = 0; row < rows; ++row) {
      const uint32_t group = line * slot_rows + first_row + row;
      const auto offset =
          static_cast<uint32_t>(group * kGroupBytes + place_of(row) * sizeof(float));
      float value;
      std::memcpy(&value, slot.read(offset, sizeof value), sizeof value);
      vector.values[row] += value;
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
