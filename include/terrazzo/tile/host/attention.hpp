// Attention tiles: queries, running results with their maxima and sums, and partial results in
// memory.
#pragma once

#include "terrazzo/arch/host/simd/simd.hpp"
#include "terrazzo/arch/host/slot.hpp"
#include "terrazzo/core/shape.hpp"
#include "terrazzo/tile/host/panel.hpp"
#include "terrazzo/tile/host/tiles.hpp"

namespace terrazzo::host {

inline constexpr uint32_t kMaxHeadDim = 128;
inline constexpr uint32_t kMaxHeadPanels = kMaxHeadDim / kPanelCols;

/// bf16 queries: [head panels][64 rows][64], swizzled by row.
struct Queries {
  alignas(128) std::byte panels[kMaxHeadPanels][kHalfPanelBytes];
};

/// A page of keys or values in a slot.
struct PageRef {
  Slot slot;
  uint32_t offset;
};

/// Unnormalised output, running maximum (scaled logits) and sum of 64 query rows.
struct AttentionTile {
  alignas(64) float out[kHalfRows * kMaxHeadDim];
  float max[kHalfRows];
  float sum[kHalfRows];

  // The page that is being attended to.
  PageRef scored;  // `scores_async` was called, `softmax` not yet
  PageRef keys;
  uint32_t limits[kHalfRows];
  float scale_log2;

  AttentionState state() { return {out, max, sum}; }
};

/// Rows [first_row, first_row + rows) of a swizzled tile at byte `offset` of a slot become rows 0,
/// 1, ...
inline void load_queries(Queries& queries, uint32_t panel, const Slot& slot, uint32_t offset,
                         uint32_t first_row, uint32_t rows) {
  if (rows == 0) {
    return;
  }
  const std::byte* const tile =
      slot.read(offset + first_row * kRowBytes, rows * kRowBytes) - first_row * kRowBytes;
  for (uint32_t row = 0; row < rows; ++row) {
    for (uint32_t chunk = 0; chunk < kRowBytes / kChunkBytes; ++chunk) {
      std::memcpy(queries.panels[panel] + chunk_offset(row, chunk),
                  tile + chunk_offset(first_row + row, chunk), kChunkBytes);
    }
  }
}

inline void clear(AttentionTile& tile, uint32_t rows, uint32_t head_dim) {
  attention_clear(tile.state(), rows, head_dim);
}

/// The scores of a page begin; this machine computes them with the output, so that keys and values
/// must be held until `output_wait`.
inline void scores_async(AttentionTile& tile, const Queries&, PageRef keys, uint32_t, uint32_t) {
  tile.scored = keys;
}

template <int kInFlight>
inline void scores_wait(AttentionTile&) {}

/// Probabilities of the page whose scores are complete; `limit_of(row)` tokens of it are visible to
/// a row. On other machines limits need not be looked at where the page is visible as a whole.
template <class LimitOf>
inline void softmax(AttentionTile& tile, const Queries&, uint32_t rows, bool, LimitOf limit_of,
                    float scale_log2) {
  tile.keys = tile.scored;
  tile.scale_log2 = scale_log2;
  for (uint32_t row = 0; row < rows; ++row) {
    tile.limits[row] = limit_of(row);
  }
}

/// `softmax` in two steps, the second after `output_wait` of the page before.
template <class LimitOf>
inline void take_maxima(AttentionTile& tile, const Queries& queries, uint32_t rows, bool whole,
                        LimitOf limit_of, float scale_log2) {
  softmax(tile, queries, rows, whole, limit_of, scale_log2);
}
inline void take_probabilities(AttentionTile&, float) {}

/// The output is scaled for the page of the last `softmax`, which is the next to be added.
inline void rescale(AttentionTile&) {}

inline void output_async(AttentionTile& tile, const Queries& queries, PageRef values, uint32_t rows,
                         uint32_t head_panels) {
  uint32_t most = 0;
  for (uint32_t row = 0; row < rows; ++row) {
    most = tile.limits[row] > most ? tile.limits[row] : most;
  }
  if (most == 0) {
    return;
  }
  const PageRef& keys = tile.keys;
  for (uint32_t panel = 0; panel < head_panels; ++panel) {
    keys.slot.read(keys.offset + panel * kHalfPanelBytes, most * kRowBytes);
    values.slot.read(values.offset + panel * kHalfPanelBytes, kHalfPanelBytes);
  }
  attention_page(tile.state(), queries.panels[0], kHalfPanelBytes, keys.slot.data + keys.offset,
                 values.slot.data + values.offset, rows, head_panels, tile.limits, tile.scale_log2);
}

inline void output_wait(AttentionTile&) {}

/// total = total (+) part, row by row; an empty part changes nothing.
inline void fold(AttentionTile& total, AttentionTile& part, uint32_t rows, uint32_t head_dim) {
  attention_fold(total.state(), part.state(), rows, head_dim);
}

/// Keeps the result of a split; `fold_back` makes it part of the next one's: part = total (+) part.
inline void save(AttentionTile& total, AttentionTile& part, uint32_t rows, uint32_t head_dim) {
  std::memcpy(total.out, part.out, rows * head_dim * sizeof(float));
  std::memcpy(total.max, part.max, rows * sizeof(float));
  std::memcpy(total.sum, part.sum, rows * sizeof(float));
}

inline void fold_back(AttentionTile& part, AttentionTile& total, uint32_t rows, uint32_t head_dim) {
  fold(total, part, rows, head_dim);
  save(part, total, rows, head_dim);
}

/// Normalised columns of head panel `panel`.
inline Panel take_attention(const AttentionTile& tile, uint32_t panel, uint32_t rows,
                            uint32_t head_dim) {
  Panel out;
  for (uint32_t row = 0; row < rows; ++row) {
    const float* const source = tile.out + row * head_dim + panel * kPanelCols;
    for (uint32_t col = 0; col < kPanelCols; ++col) {
      out.values[row][col] = source[col] / tile.sum[row];
    }
  }
  return out;
}

/// Rounded row r becomes row first + r of the stage, where it has its place in a tile.
inline void store_rows(Stage& stage, const Panel& panel, uint32_t first, uint32_t rows) {
  Stage shifted = stage;
  shifted.tile += first * kRowBytes;
  store_panel(shifted, panel, rows, [&](uint32_t row) { return first + row; });
}

/// Rows [first, first + rows) as partial results in the stage: output, maximum, sum.
inline void store_partial(Stage& stage, const AttentionTile& tile, uint32_t first, uint32_t rows,
                          const ModelShape& shape) {
  auto* const target = reinterpret_cast<float*>(stage.tile);
  for (uint32_t row = 0; row < rows; ++row) {
    float* const line = target + row * shape.partial_elems();
    const float* const source = tile.out + (first + row) * shape.head_dim;
    std::memcpy(line, source, shape.head_dim * sizeof(float));
    float* const tail = line + shape.head_dim;
    tail[0] = tile.max[first + row];
    tail[1] = tile.sum[first + row];
    tail[2] = tail[3] = 0.0f;
  }
}

inline void load_partial(AttentionTile& tile, const Slot& slot, uint32_t rows,
                         const ModelShape& shape) {
  const auto bytes = static_cast<uint32_t>(shape.partial_elems() * sizeof(float));
  for (uint32_t row = 0; row < rows; ++row) {
    const auto* const line = reinterpret_cast<const float*>(slot.read(row * bytes, bytes));
    std::memcpy(tile.out + row * shape.head_dim, line, shape.head_dim * sizeof(float));
    tile.max[row] = line[shape.head_dim];
    tile.sum[row] = line[shape.head_dim + 1];
  }
}

}  // namespace terrazzo::host
