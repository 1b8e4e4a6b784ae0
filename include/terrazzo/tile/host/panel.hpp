// Element-wise work on output panels, and their way into stages.
#pragma once

#include <cmath>

#include "terrazzo/arch/host/simd/simd.hpp"
#include "terrazzo/arch/host/slot.hpp"
#include "terrazzo/tile/host/tiles.hpp"

namespace terrazzo::host {

inline void clear(RowVector& vector) {
  for (float& value : vector.values) {
    value = 0.0f;
  }
}

/// vector[r] += line[first_row + r] for each of `lines` lines of [128] fp32, in ascending order.
inline void add_lines(RowVector& vector, const Slot& slot, uint32_t lines, uint32_t first_row,
                      uint32_t rows) {
  for (uint32_t line = 0; line < lines; ++line) {
    const auto offset = static_cast<uint32_t>((line * kRowBlock + first_row) * sizeof(float));
    const auto* const values = reinterpret_cast<const float*>(
        slot.read(offset, static_cast<uint32_t>(rows * sizeof(float))));
    for (uint32_t row = 0; row < rows; ++row) {
      vector.values[row] += values[row];
    }
  }
}

/// Sums of squares -> 1 / sqrt(mean + eps).
inline void rstd(RowVector& vector, uint32_t hidden, float eps, uint32_t rows) {
  for (uint32_t row = 0; row < rows; ++row) {
    vector.values[row] = 1.0f / std::sqrt(vector.values[row] / static_cast<float>(hidden) + eps);
  }
}

inline void scale_rows(Accumulator& acc, const RowVector& factors, uint32_t rows, uint32_t panels) {
  for (uint32_t row = 0; row < rows; ++row) {
    scale_row(acc.values[row], factors.values[row], panels * kPanelCols);
  }
}

inline void clear(Panel& panel, uint32_t rows) {
  for (uint32_t row = 0; row < rows; ++row) {
    std::memset(panel.values[row], 0, sizeof(panel.values[row]));
  }
}

/// Rows from `first_row` of a slot that holds bf16 rows as memory has them, not swizzled.
inline void load_plain_rows(Panel& out, const Slot& slot, uint32_t first_row, uint32_t rows) {
  for (uint32_t row = 0; row < rows; ++row) {
    const auto* const source =
        reinterpret_cast<const bf16*>(slot.read((first_row + row) * kRowBytes, kRowBytes));
    for (uint32_t col = 0; col < kPanelCols; ++col) {
      out.values[row][col] = to_float(source[col]);
    }
  }
}

inline Panel take_panel(const Accumulator& acc, uint32_t panel, uint32_t rows) {
  Panel out;
  for (uint32_t row = 0; row < rows; ++row) {
    std::memcpy(out.values[row], &acc.values[row][panel * kPanelCols], sizeof(out.values[row]));
  }
  return out;
}

/// silu(gate) * up of output panel `panel`: its columns lie in panels 2 * panel and 2 * panel + 1,
/// gate and up alternating in runs of kPairRun.
inline Panel take_gated_panel(const Accumulator& acc, uint32_t panel, uint32_t rows) {
  Panel out;
  for (uint32_t row = 0; row < rows; ++row) {
    float gate[kPanelCols];
    float up[kPanelCols];
    const float* in = &acc.values[row][2 * panel * kPanelCols];
    for (uint32_t run = 0; run < kPanelCols; run += kPairRun, in += 2 * kPairRun) {
      for (uint32_t i = 0; i < kPairRun; ++i) {
        gate[run + i] = in[i];
        up[run + i] = in[kPairRun + i];
      }
    }
    silu_mul(out.values[row], gate, up, kPanelCols);
  }
  return out;
}

/// Rotary embedding of head panel `head_panel`: in each 16 columns, 8 first halves and their 8
/// second halves. `table_of(row)` gives the row's head_dim / 2 cosines, then as many sines.
template <class TableOf>
inline void rotate(Panel& panel, uint32_t head_panel, uint32_t head_dim, uint32_t rows,
                   TableOf table_of) {
  for (uint32_t row = 0; row < rows; ++row) {
    const float* const cosines = table_of(row);
    const float* const sines = cosines + head_dim / 2;
    for (uint32_t run = 0; run < kPanelCols; run += 2 * kPairRun) {
      const uint32_t first = (head_panel * kPanelCols + run) / 2;
      float* const low = panel.values[row] + run;
      float* const high = low + kPairRun;
      for (uint32_t i = 0; i < kPairRun; ++i) {
        const float a = low[i];
        const float b = high[i];
        low[i] = std::fma(a, cosines[first + i], -(b * sines[first + i]));
        high[i] = std::fma(b, cosines[first + i], a * sines[first + i]);
      }
    }
  }
}

/// panel[r] += bf16 row first_row + r of a swizzled tile in a slot.
inline void add_tile(Panel& panel, const Slot& slot, uint32_t first_row, uint32_t rows) {
  if (rows == 0) {
    return;
  }
  const std::byte* const tile = slot.read(first_row * kRowBytes, rows * kRowBytes);
  for (uint32_t row = 0; row < rows; ++row) {
    add_row(panel.values[row], tile, row);
  }
}

/// Rounds the panel into the stage. Row r is swizzled for row `target_row(r)` of the tile it will
/// land in.
template <class TargetRow>
inline void store_panel(Stage& stage, const Panel& panel, uint32_t rows, TargetRow target_row) {
  for (uint32_t row = 0; row < rows; ++row) {
    const uint32_t swizzle = target_row(row) & 7u;
    std::byte* const base = stage.tile + row * kRowBytes - swizzle * kRowBytes;
    round_store_row(base, swizzle, panel.values[row]);
  }
}

/// The same for rows that stay where they are; the sum of squares of each rounded row goes into the
/// stage's vector.
inline void store_panel_with_sums(Stage& stage, const Panel& panel, uint32_t rows) {
  store_panel(stage, panel, rows, [](uint32_t row) { return row; });
  for (uint32_t row = 0; row < rows; ++row) {
    stage.vector[row] = sum_squares_row(stage.tile, row);
  }
}

}  // namespace terrazzo::host
