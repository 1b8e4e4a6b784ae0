// Attention of one token's query heads, operands swapped: S^T = K Q^T, O^T += V^T P^T. Columns are
// heads, 8 or 16. By mma.sync, with the bits of wgmma: products this narrow are chains of
// latencies, and these need neither fences nor waits (docs/performance/log.md).
#pragma once

#include "terrazzo/arch/sm90/matrix.hpp"
#include "terrazzo/arch/sm90/shared_pair.hpp"
#include "terrazzo/core/shape.hpp"
#include "terrazzo/tile/sm90/attention_softmax.hpp"
#include "terrazzo/tile/sm90/mma.hpp"
#include "terrazzo/tile/sm90/tiles.hpp"

namespace terrazzo::sm90 {

inline constexpr uint32_t kGroupHeads = 8;
inline constexpr uint32_t kGroupTileBytes = kGroupHeads * kRowBytes;  // a swizzle atom
inline constexpr uint32_t kStepPairsPerPanel = kStepsPerPanel / 2;    // of k16 steps

/// P^T of a page, [heads][64 tokens], lies at the end of a stage that the consumer may write; rows
/// on their way out are at its beginning. Every warp has the queries as fragments.
template <uint32_t kPanels, uint32_t kGroups>
struct DecodeQueries {
  static constexpr uint32_t kProbabilityBytes = kGroups * kGroupTileBytes;
  static_assert(kGroupHeads * (kPanels * kPanelCols + 4) * sizeof(float) + kProbabilityBytes <=
                kStageBytes);  // partial results of 8 heads are the most that goes out at once

  uint32_t probabilities;
  uint32_t barrier;  // named barrier of the consumer
  uint32_t maxima;   // float [warp][kMaxDecodeHeads] in shared memory
  uint32_t steps[kPanels][kGroups][kStepPairsPerPanel][4];
};

/// The state of up to 8 * kGroups heads. Threads with the same `pair` have the same maxima and
/// sums.
template <uint32_t kPanels, uint32_t kGroups>
struct DecodeAttention {
  float out[kPanels][4 * kGroups];  // [column of the head][head]
  float sum[4 * kGroups];
  float max[2 * kGroups];
  float scores[4 * kGroups];  // [token][head]
  float alpha[2 * kGroups];
};

/// Two k16 steps of the 8 rows of an operand tile, as two pairs of fragments.
__device__ __forceinline__ void load_step_pair(uint32_t (&steps)[4], uint32_t tile, uint32_t pair) {
  const uint32_t lane = thread_place().thread % kWarpThreads;
  load_matrices(steps, tile + chunk_offset(lane % 8, pair * 4 + lane / 8));
}

/// Whole groups of 8 heads; what follows the last head is never read as a result. `panel` is a
/// constant.
template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void load_queries(DecodeQueries<kPanels, kGroups>& queries,
                                             uint32_t panel, const Slot& slot, uint32_t offset,
                                             uint32_t, uint32_t) {
#pragma unroll
  for (uint32_t group = 0; group < kGroups; ++group) {
#pragma unroll
    for (uint32_t pair = 0; pair < kStepPairsPerPanel; ++pair) {
      load_step_pair(queries.steps[panel][group][pair],
                     slot.data + offset + group * kGroupTileBytes, pair);
    }
  }
}

template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void clear(DecodeAttention<kPanels, kGroups>& tile, uint32_t, uint32_t) {
#pragma unroll
  for (auto& panel : tile.out) {
#pragma unroll
    for (float& value : panel) {
      value = 0.0f;
    }
  }
#pragma unroll
  for (float& value : tile.sum) {
    value = 0.0f;
  }
#pragma unroll
  for (uint32_t h = 0; h < 2 * kGroups; ++h) {
    tile.max[h] = kMinusInfinity;
    tile.alpha[h] = 0.0f;
  }
}

/// Each warp multiplies 16 tokens; done at return.
template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void scores_async(DecodeAttention<kPanels, kGroups>& tile,
                                             const DecodeQueries<kPanels, kGroups>& queries,
                                             PageRef keys, uint32_t, uint32_t) {
  const MatrixPlace place = matrix_place();
#pragma unroll
  for (float& value : tile.scores) {
    value = 0.0f;
  }
#pragma unroll
  for (uint32_t panel = 0; panel < kPanels; ++panel) {
    const uint32_t rows = keys.address() + panel * kHalfPanelBytes;
#pragma unroll
    for (uint32_t step = 0; step < kStepsPerPanel; ++step) {
      uint32_t a[4];
      load_matrices(a, rows + chunk_offset(place.row, step * 2 + place.chunk));
#pragma unroll
      for (uint32_t group = 0; group < kGroups; ++group) {
        const uint32_t* const b = queries.steps[panel][group][step / 2] + step % 2 * 2;
        multiply_matrices(tile.scores + group * 4, a, b[0], b[1]);
      }
    }
  }
}

template <int kInFlight, uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void scores_wait(DecodeAttention<kPanels, kGroups>&) {}

/// Heads are masked alike. The maxima of the warps meet in shared memory, and P^T goes there; the
/// maxima's barrier also tells that all warps have added the P^T before.
template <uint32_t kPanels, uint32_t kGroups, class LimitOf>
__device__ __forceinline__ void softmax(DecodeAttention<kPanels, kGroups>& tile,
                                        const DecodeQueries<kPanels, kGroups>& queries, uint32_t,
                                        bool, LimitOf limit_of, float scale_log2) {
  const ThreadPlace place = thread_place();
  const uint32_t warp = place.thread / kWarpThreads;
  const uint32_t lane = place.thread % kWarpThreads;
  const uint32_t limit = limit_of(0);
  float masked[4 * kGroups];
  float highest[2 * kGroups];
#pragma unroll
  for (uint32_t i = 0; i < 4 * kGroups; ++i) {
    const uint32_t token = place.row + i % 4 / 2 * 8;
    masked[i] = token < limit ? tile.scores[i] : kMinusInfinity;
  }
#pragma unroll
  for (uint32_t h = 0; h < 2 * kGroups; ++h) {
    const uint32_t at = h / 2 * 4 + h % 2;
    highest[h] = fmaxf(masked[at], masked[at + 2]);
#pragma unroll
    for (uint32_t distance = 4; distance < kWarpThreads; distance *= 2) {
      highest[h] = fmaxf(highest[h], __shfl_xor_sync(~0u, highest[h], distance));
    }
  }
  constexpr uint32_t kWarpBytes = kMaxDecodeHeads * sizeof(float);
  const uint32_t maxima = queries.maxima + place.pair * sizeof(float);
#pragma unroll
  for (uint32_t group = 0; group < kGroups; ++group) {
    if (lane < 4) {
      store_pair(maxima + warp * kWarpBytes + group * kGroupHeads * sizeof(float),
                 highest[group * 2], highest[group * 2 + 1]);
    }
  }
  named_barrier_sync(queries.barrier, kConsumerThreads);
  float reference[2 * kGroups];
#pragma unroll
  for (uint32_t group = 0; group < kGroups; ++group) {
    float* const both = highest + group * 2;
#pragma unroll
    for (uint32_t w = 0; w < kWarpsPerConsumer; ++w) {
      float others[2];
      load_pair(others[0], others[1],
                maxima + w * kWarpBytes + group * kGroupHeads * sizeof(float));
      both[0] = fmaxf(both[0], others[0]);
      both[1] = fmaxf(both[1], others[1]);
    }
  }
#pragma unroll
  for (uint32_t h = 0; h < 2 * kGroups; ++h) {
    tile.alpha[h] = update_maximum(tile.max[h], highest[h], scale_log2);
    reference[h] = exponent_reference(tile.max[h]);
  }
  const uint32_t target = queries.probabilities + chunk_offset(lane % 8, warp * 2 + lane / 8 % 2);
#pragma unroll
  for (uint32_t group = 0; group < kGroups; ++group) {
    float p[4];
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) {
      p[i] = probability(masked[group * 4 + i], scale_log2, reference[group * 2 + i % 2]);
    }
    store_matrices_transposed(target + group * kGroupTileBytes, pack_bf16x2(p[0], p[1]),
                              pack_bf16x2(p[2], p[3]));
  }
  named_barrier_sync(queries.barrier, kConsumerThreads);
}

/// Scales the output for the page of the last `softmax`, which is the next to be added.
template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void rescale(DecodeAttention<kPanels, kGroups>& tile) {
#pragma unroll
  for (uint32_t i = 0; i < 4 * kGroups; ++i) {
    const float alpha = tile.alpha[i / 4 * 2 + i % 2];
    tile.sum[i] = __fmul_rn(tile.sum[i], alpha);
#pragma unroll
    for (auto& panel : tile.out) {
      panel[i] = __fmul_rn(panel[i], alpha);
    }
  }
}

/// Each warp multiplies 16 columns of each head panel; done at return.
template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void output_async(DecodeAttention<kPanels, kGroups>& tile,
                                             const DecodeQueries<kPanels, kGroups>& queries,
                                             PageRef values, uint32_t, uint32_t) {
  constexpr uint32_t kStepRows = 16;
  constexpr uint32_t kOnePair = 0x3f803f80;  // two bf16
  const uint32_t ones[4] = {kOnePair, kOnePair, kOnePair, kOnePair};
  const uint32_t warp = thread_place().thread / kWarpThreads;
  const uint32_t lane = thread_place().thread % kWarpThreads;
  // Tokens 0 to 7 of both column halves, then 8 to 15: the order of a fragment's matrices.
  const uint32_t token = lane / 16 * 8 + lane % 8;
  const uint32_t chunk = warp * 2 + lane / 8 % 2;
  uint32_t b[kGroups][kStepPairsPerPanel][4];
#pragma unroll
  for (uint32_t group = 0; group < kGroups; ++group) {
#pragma unroll
    for (uint32_t pair = 0; pair < kStepPairsPerPanel; ++pair) {
      load_step_pair(b[group][pair], queries.probabilities + group * kGroupTileBytes, pair);
    }
  }
#pragma unroll
  for (uint32_t step = 0; step < kPageTokens / kStepRows; ++step) {
    uint32_t a[kPanels][4];
#pragma unroll
    for (uint32_t panel = 0; panel < kPanels; ++panel) {
      load_matrices_transposed(a[panel], values.address() + panel * kHalfPanelBytes +
                                             chunk_offset(step * kStepRows + token, chunk));
    }
#pragma unroll
    for (uint32_t group = 0; group < kGroups; ++group) {
      const uint32_t* const p = b[group][step / 2] + step % 2 * 2;
#pragma unroll
      for (uint32_t panel = 0; panel < kPanels; ++panel) {
        multiply_matrices(tile.out[panel] + group * 4, a[panel], p[0], p[1]);
      }
      multiply_matrices(tile.sum + group * 4, ones, p[0], p[1]);
    }
  }
}

template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void output_wait(DecodeAttention<kPanels, kGroups>&) {}

/// total = total (+) part, head by head; an empty part changes nothing.
template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void fold(DecodeAttention<kPanels, kGroups>& total,
                                     const DecodeAttention<kPanels, kGroups>& part, uint32_t,
                                     uint32_t) {
#pragma unroll
  for (uint32_t h = 0; h < 2 * kGroups; ++h) {
    const uint32_t first = h / 2 * 4 + h % 2;
    const Fold join(total.max[h], total.sum[first], part.max[h], part.sum[first]);
#pragma unroll
    for (uint32_t i = first; i < h / 2 * 4 + 4; i += 2) {
      total.sum[i] = join(total.sum[i], part.sum[i]);
#pragma unroll
      for (uint32_t panel = 0; panel < kPanels; ++panel) {
        total.out[panel][i] = join(total.out[panel][i], part.out[panel][i]);
      }
    }
  }
}

/// 64 output columns of up to 8 * kGroups heads on their way out.
template <uint32_t kGroups>
struct DecodePanel {
  float values[4 * kGroups];
};

/// Calls f(value, head, column).
template <uint32_t kGroups, class F>
__device__ __forceinline__ void for_each_element(DecodePanel<kGroups>& panel, F f) {
  const ThreadPlace place = thread_place();
#pragma unroll
  for (uint32_t i = 0; i < 4 * kGroups; ++i) {
    f(panel.values[i], i / 4 * kGroupHeads + place.pair + i % 2, place.row + i % 4 / 2 * 8);
  }
}

/// Normalised columns of head panel `panel`.
template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ DecodePanel<kGroups> take_attention(
    const DecodeAttention<kPanels, kGroups>& tile, uint32_t panel, uint32_t, uint32_t) {
  DecodePanel<kGroups> out{};
#pragma unroll
  for (uint32_t i = 0; i < 4 * kGroups; ++i) {
    const float inverse = rcp_approx(tile.sum[i]);
#pragma unroll
    for (uint32_t p = 0; p < kPanels; ++p) {
      if (p == panel) {
        out.values[i] = __fmul_rn(tile.out[p][i], inverse);
      }
    }
  }
  return out;
}

/// Address of heads' partial results: a line each, of output, maximum, sum and padding.
__device__ __forceinline__ float* partial_line(uint32_t lines, uint32_t head,
                                               const ModelShape& shape) {
  return static_cast<float*>(__cvta_shared_to_generic(lines)) + head * shape.partial_elems();
}

/// Heads [first, first + rows) of one group of 8 as partial results in the stage.
template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void store_partial(Stage& stage,
                                              const DecodeAttention<kPanels, kGroups>& tile,
                                              uint32_t first, uint32_t rows,
                                              const ModelShape& shape) {
  const ThreadPlace place = thread_place();
#pragma unroll
  for (uint32_t i = 0; i < 4 * kGroups; ++i) {
    const uint32_t head = i / 4 * kGroupHeads + place.pair + i % 2 - first;
    if (head >= rows) {  // also those before the first: they wrap
      continue;
    }
    float* const line = partial_line(stage.tile, head, shape);
#pragma unroll
    for (uint32_t panel = 0; panel < kPanels; ++panel) {
      line[panel * kPanelCols + place.row + i % 4 / 2 * 8] = tile.out[panel][i];
    }
    if (place.row == 0 && i % 4 < 2) {
      float* const tail = line + kPanels * kPanelCols;
      tail[0] = tile.max[i / 4 * 2 + i % 2];
      tail[1] = tile.sum[i];
      tail[2] = tail[3] = 0.0f;
    }
  }
}

template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void load_partial(DecodeAttention<kPanels, kGroups>& tile,
                                             const Slot& slot, uint32_t rows,
                                             const ModelShape& shape) {
  const ThreadPlace place = thread_place();
  clear(tile, rows, shape.head_dim);
#pragma unroll
  for (uint32_t i = 0; i < 4 * kGroups; ++i) {
    const uint32_t head = i / 4 * kGroupHeads + place.pair + i % 2;
    if (head >= rows) {
      continue;
    }
    const float* const line = partial_line(slot.data, head, shape);
#pragma unroll
    for (uint32_t panel = 0; panel < kPanels; ++panel) {
      tile.out[panel][i] = line[panel * kPanelCols + place.row + i % 4 / 2 * 8];
    }
    tile.max[i / 4 * 2 + i % 2] = line[kPanels * kPanelCols];
    tile.sum[i] = line[kPanels * kPanelCols + 1];
  }
}

}  // namespace terrazzo::sm90
