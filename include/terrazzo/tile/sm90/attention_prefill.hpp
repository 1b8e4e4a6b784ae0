// Attention of 64 query rows: S = Q K^T, O += P V; Q and P in registers.
#pragma once

#include "terrazzo/arch/sm90/matrix.hpp"
#include "terrazzo/arch/sm90/special.hpp"
#include "terrazzo/arch/sm90/wgmma.hpp"
#include "terrazzo/tile/sm90/attention_softmax.hpp"
#include "terrazzo/tile/sm90/panel_move.hpp"
#include "terrazzo/tile/sm90/tiles.hpp"

namespace terrazzo::sm90 {

/// 64 rows as fragments, 16 columns each, of which row `first` and on are the unit's. In shared
/// memory their reads, beside those of the keys, would take as long as the products.
template <uint32_t kPanels>
struct PrefillQueries {
  static constexpr uint32_t kStepsPerPanel = kRowBytes / kStepBytes;
  uint32_t steps[kPanels * kStepsPerPanel][4];
  uint32_t first;
  uint32_t ones;  // a tile of ones, for the sums
};

/// The state of 64 query rows; a thread's are two.
template <uint32_t kPanels>
struct PrefillAttention {
  float out[kPanels * kPanelCols / 2];
  float sum[4];  // of a row in [0] and [1], of the one 8 below in [2] and [3]
  float max[2];
  uint32_t first;  // see PrefillQueries
  float scores[kPageTokens / 2];
  uint32_t probabilities[kPageTokens / 16][4];  // of the page that is being added, as fragments
  float alpha[2];
  bool scales;  // whether one of the warp's is not 1
};

/// Rows [first_row, first_row + rows) of a swizzled tile at byte `offset` of a slot; `panel` is a
/// constant.
template <uint32_t kPanels>
__device__ __forceinline__ void load_queries(PrefillQueries<kPanels>& queries, uint32_t panel,
                                             const Slot& slot, uint32_t offset, uint32_t first_row,
                                             uint32_t) {
  const MatrixPlace place = matrix_place();
  const uint32_t tile = slot.data + offset + first_row / kHalfRows * kHalfPanelBytes;
#pragma unroll
  for (uint32_t step = 0; step < queries.kStepsPerPanel; ++step) {
    load_matrices(queries.steps[panel * queries.kStepsPerPanel + step],
                  tile + chunk_offset(place.row, step * 2 + place.chunk));
  }
  queries.first = first_row % kHalfRows;
}

template <uint32_t kPanels>
__device__ __forceinline__ void clear(PrefillAttention<kPanels>& tile, uint32_t, uint32_t) {
#pragma unroll
  for (float& value : tile.out) {
    value = 0.0f;
  }
#pragma unroll
  for (float& value : tile.sum) {
    value = 0.0f;
  }
#pragma unroll
  for (float& value : tile.scores) {
    value = 0.0f;
  }
#pragma unroll
  for (auto& step : tile.probabilities) {
#pragma unroll
    for (uint32_t& pair : step) {
      pair = 0;
    }
  }
  tile.max[0] = tile.max[1] = kMinusInfinity;
  tile.alpha[0] = tile.alpha[1] = 0.0f;
  tile.scales = false;
  tile.first = 0;
}

template <uint32_t kPanels>
__device__ __forceinline__ void scores_async(PrefillAttention<kPanels>& tile,
                                             const PrefillQueries<kPanels>& queries, PageRef keys,
                                             uint32_t, uint32_t) {
  const uint64_t columns = k_major_descriptor(warp_uniform(keys.address()));
  wgmma_fence();
#pragma unroll
  for (uint32_t panel = 0; panel < kPanels; ++panel) {
#pragma unroll
    for (uint32_t step = 0; step < queries.kStepsPerPanel; ++step) {
      wgmma_async<false>(tile.scores, queries.steps[panel * queries.kStepsPerPanel + step],
                         advance_descriptor(columns, panel * kHalfPanelBytes + step * kStepBytes),
                         panel + step != 0);
    }
  }
  wgmma_commit();
}

/// Until the scores are complete; `kInFlight` products were issued after them.
template <int kInFlight, uint32_t kPanels>
__device__ __forceinline__ void scores_wait(PrefillAttention<kPanels>& tile) {
  wgmma_wait<kInFlight>();
  pin_registers(tile.scores);
}

/// The page's maxima, which may move the references; `whole`: all rows see the whole page.
template <uint32_t kPanels, class LimitOf>
__device__ __forceinline__ void take_maxima(PrefillAttention<kPanels>& tile,
                                            const PrefillQueries<kPanels>& queries, uint32_t,
                                            bool whole, LimitOf limit_of, float scale_log2) {
  if (!whole) {
    const ThreadPlace place = thread_place();
    uint32_t limits[2];
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      // Of the unit; wraps for rows before it, whose results nobody reads.
      limits[half] = limit_of(place.row + half * 8 - queries.first) - place.pair;
    }
#pragma unroll
    for (uint32_t i = 0; i < kPageTokens / 2; ++i) {
      const auto token = static_cast<int32_t>(i / 4 * 8 + i % 2);
      if (token >= static_cast<int32_t>(limits[i % 4 / 2])) {
        tile.scores[i] = kMinusInfinity;
      }
    }
  }
  float highest[2];  // of this thread's columns; a row is spread over four lanes
  bool grows = false;
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    highest[half] = tile.scores[half * 2];
#pragma unroll
    for (uint32_t i = 1; i < kPageTokens / 2; ++i) {
      if (i % 4 / 2 == half) {
        highest[half] = fmaxf(highest[half], tile.scores[i]);
      }
    }
    grows |= exceeds(tile.max[half], highest[half], scale_log2);
    tile.alpha[half] = 1.0f;
  }
  tile.scales = __any_sync(~0u, grows);
  if (tile.scales) {
#pragma unroll
    for (uint32_t half = 0; half < 2; ++half) {
      highest[half] = fmaxf(highest[half], __shfl_xor_sync(~0u, highest[half], 1));
      highest[half] = fmaxf(highest[half], __shfl_xor_sync(~0u, highest[half], 2));
      tile.alpha[half] = update_maximum(tile.max[half], highest[half], scale_log2);
    }
  }
  tile.first = queries.first;
}

/// Scales the output for the page of the last `take_maxima`, which is the next to be added, and
/// computes its probabilities. Products with the last ones are complete: rounded sooner, they would
/// be merged with the registers of a running product, and all products serialised (C7513).
template <uint32_t kPanels>
__device__ __forceinline__ void take_probabilities(PrefillAttention<kPanels>& tile,
                                                   float scale_log2) {
  if (tile.scales) {
#pragma unroll
    for (uint32_t i = 0; i < kPanels * kPanelCols / 2; ++i) {
      tile.out[i] = __fmul_rn(tile.out[i], tile.alpha[i % 4 / 2]);
    }
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      tile.sum[i] = __fmul_rn(tile.sum[i], tile.alpha[i / 2]);
    }
  }
  const float references[2] = {exponent_reference(tile.max[0]), exponent_reference(tile.max[1])};
#pragma unroll
  for (uint32_t step = 0; step < kPageTokens / 16; ++step) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      const float* const scores = tile.scores + step * 8 + i * 2;
      tile.probabilities[step][i] =
          pack_bf16x2(probability(scores[0], scale_log2, references[i % 2]),
                      probability(scores[1], scale_log2, references[i % 2]));
    }
    pin_registers(tile.probabilities[step]);
  }
}

template <uint32_t kPanels>
__device__ __forceinline__ void output_async(PrefillAttention<kPanels>& tile,
                                             const PrefillQueries<kPanels>& queries, PageRef values,
                                             uint32_t, uint32_t) {
  constexpr uint32_t kStepRows = 16;
  const uint64_t columns =
      tile_descriptor(warp_uniform(values.address()), kHalfPanelBytes, kSwizzleAtomBytes);
  wgmma_fence();
#pragma unroll
  for (uint32_t step = 0; step < kPageTokens / kStepRows; ++step) {
    wgmma_async<true>(tile.out, tile.probabilities[step],
                      advance_descriptor(columns, step * kStepRows * kRowBytes), 1);
    wgmma_async<false>(tile.sum, tile.probabilities[step], plain_descriptor(queries.ones), 1);
  }
  wgmma_commit();
}

template <uint32_t kPanels>
__device__ __forceinline__ void output_wait(PrefillAttention<kPanels>& tile) {
  wgmma_wait<0>();
  pin_registers(tile.out);
  pin_registers(tile.sum);
}

/// The result of earlier splits, in local memory on purpose: it is touched once a split, and would
/// take up to 68 registers from the loop over pages.
template <uint32_t kPanels>
struct PrefillTotal {
  static constexpr uint32_t kOut = kPanels * kPanelCols / 2;
  float values[kOut + 4];  // output; sum and maximum of either row

  /// The values, by an index that the compiler cannot know: so it does not take them into
  /// registers.
  __device__ __forceinline__ float* hidden() { return values + opaque_zero(); }
};

template <uint32_t kPanels>
__device__ __forceinline__ void save(PrefillTotal<kPanels>& total,
                                     const PrefillAttention<kPanels>& part, uint32_t, uint32_t) {
  float* const values = total.hidden();
#pragma unroll
  for (uint32_t i = 0; i < total.kOut; ++i) {
    values[i] = part.out[i];
  }
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    values[total.kOut + half] = part.sum[half * 2];
    values[total.kOut + 2 + half] = part.max[half];
  }
}

/// part = total (+) part, row by row; an empty part changes nothing.
template <uint32_t kPanels>
__device__ __forceinline__ void fold_back(PrefillAttention<kPanels>& part,
                                          PrefillTotal<kPanels>& total, uint32_t, uint32_t) {
  const float* const values = total.hidden();
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    float max = values[total.kOut + 2 + half];
    const Fold join(max, values[total.kOut + half], part.max[half], part.sum[half * 2]);
    part.max[half] = max;
    part.sum[half * 2] = part.sum[half * 2 + 1] =
        join(values[total.kOut + half], part.sum[half * 2]);
#pragma unroll
    for (uint32_t i = 0; i < total.kOut; ++i) {
      if (i % 4 / 2 == half) {
        part.out[i] = join(values[i], part.out[i]);
      }
    }
  }
}

/// A panel whose row 0 is row `first` of the products.
struct ShiftedPanel {
  Panel panel;
  uint32_t first;
};

/// Rows before the first have numbers that no count reaches.
template <class F>
__device__ __forceinline__ void for_each_element(ShiftedPanel& panel, F f) {
  const uint32_t first = panel.first;
  for_each_element(panel.panel, [&](float& value, uint32_t row, uint32_t column)
                                    TERRAZZO_LAMBDA { f(value, row - first, column); });
}

/// Normalised columns of head panel `panel`.
template <uint32_t kPanels>
__device__ __forceinline__ ShiftedPanel take_attention(const PrefillAttention<kPanels>& tile,
                                                       uint32_t panel, uint32_t, uint32_t) {
  const float inverse[2] = {rcp_approx(tile.sum[0]), rcp_approx(tile.sum[2])};
  ShiftedPanel out{{}, tile.first};
#pragma unroll
  for (uint32_t p = 0; p < kPanels; ++p) {
    if (p == panel) {
#pragma unroll
      for (uint32_t i = 0; i < kPanelCols / 2; ++i) {
        out.panel.values[i] = __fmul_rn(tile.out[p * kPanelCols / 2 + i], inverse[i % 4 / 2]);
      }
    }
  }
  return out;
}

/// Row r of the unit, rounded, becomes row first + r of the stage, where it has its place in a
/// tile.
__device__ __forceinline__ void store_rows(Stage& stage, const ShiftedPanel& panel, uint32_t,
                                           uint32_t) {
  store_panel(stage, panel.panel, kHalfRows, [](uint32_t row) TERRAZZO_LAMBDA { return row; });
}

}  // namespace terrazzo::sm90
