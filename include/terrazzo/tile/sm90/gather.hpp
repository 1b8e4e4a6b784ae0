// Gathered rows: pieces of tile rows and sums of squares that come from scattered places.
#pragma once

#include "terrazzo/arch/sm90/machine.hpp"
#include "terrazzo/tile/sm90/panel_move.hpp"
#include "terrazzo/tile/sm90/shared_values.hpp"
#include "terrazzo/tile/sm90/tiles.hpp"

namespace terrazzo::sm90 {

/// vector[r] += value_of(line, r) for each of `lines` lines, in ascending order, by thread r.
template <class ValueOf>
__device__ __forceinline__ void add_values(RowVector& vector, uint32_t rows, uint32_t lines,
                                           ValueOf value_of) {
  constexpr uint32_t kAtOnce = 8;  // loads in flight
  const uint32_t row = thread_place().thread;
  if (row < rows) {
    float sum = vector.values[row];
    for (uint32_t line = 0; line < lines; line += kAtOnce) {
      float values[kAtOnce];
#pragma unroll
      for (uint32_t i = 0; i < kAtOnce; ++i) {
        values[i] = line + i < lines ? value_of(line + i, row) : 0.0f;
      }
#pragma unroll
      for (uint32_t i = 0; i < kAtOnce; ++i) {
        sum += values[i];
      }
    }
    vector.values[row] = sum;
  }
}

/// Rows from `first_row` of a slot of 128-byte bf16 rows, each swizzled for row `source_row(r)` of
/// the tile it comes from. Other rows are zeros.
template <class SourceRow>
__device__ __forceinline__ void load_gathered_rows(Panel& out, const Slot& slot, uint32_t first_row,
                                                   uint32_t rows, SourceRow source_row) {
  const ThreadPlace place = thread_place();
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t row = place.row + half * 8;
    const bool exists = row < rows;
    const uint32_t swizzle = exists ? source_row(row) & 7u : 0;
    const uint32_t base = slot.data + (first_row + row) * kRowBytes +
                          place.pair * static_cast<uint32_t>(sizeof(bf16));
#pragma unroll
    for (uint32_t chunk = 0; chunk < kPanelCols / kChunkElems; ++chunk) {
      const uint32_t pair =
          exists ? load_shared<uint32_t>(base + (chunk ^ swizzle) * kChunkBytes) : 0;
      out.values[chunk * 4 + half * 2] = low_bf16(pair);
      out.values[chunk * 4 + half * 2 + 1] = high_bf16(pair);
    }
  }
}

/// panel[r][c] *= factors[r] * weight[c], the row's factor first.
__device__ __forceinline__ void scale_panel(Panel& panel, const RowVector& factors,
                                            const bf16* weight, uint32_t) {
  const ThreadPlace place = thread_place();
  const float low = factors.values[place.row];
  const float high = factors.values[place.row + 8];
  const auto* const pairs = reinterpret_cast<const uint32_t*>(weight + place.pair);
#pragma unroll
  for (uint32_t chunk = 0; chunk < kPanelCols / kChunkElems; ++chunk) {
    const uint32_t pair = pairs[chunk * kChunkElems / 2];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      float& value = panel.values[chunk * 4 + i];
      value = value * (i < 2 ? low : high) * (i % 2 == 0 ? low_bf16(pair) : high_bf16(pair));
    }
  }
}

}  // namespace terrazzo::sm90
