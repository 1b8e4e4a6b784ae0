// Attention of one token's query heads, operands swapped: S^T = K Q^T, O^T += V^T P^T. Columns are
// heads, 8 or 16; Q and P^T lie in shared memory.
#pragma once

#include "terrazzo/arch/sm90/matrix.hpp"
#include "terrazzo/arch/sm90/wgmma.hpp"
#include "terrazzo/core/shape.hpp"
#include "terrazzo/tile/sm90/attention_softmax.hpp"
#include "terrazzo/tile/sm90/tiles.hpp"

namespace terrazzo::sm90 {

inline constexpr uint32_t kGroupHeads = 8;
inline constexpr uint32_t kGroupTileBytes = kGroupHeads * kRowBytes;  // a swizzle atom

/// A consumer's half of the scratch slot: [panels][heads][64] queries, then P^T of two pages.
template <uint32_t kPanels, uint32_t kGroups>
struct DecodeQueries {
  static constexpr uint32_t kTileBytes = kGroups * kGroupTileBytes;
  static_assert((kPanels + 2) * kTileBytes <= kSlotBytes / kNumConsumers);

  uint32_t scratch;
  uint32_t barrier;                  // named barrier of the consumer
  float (*maxima)[kMaxDecodeHeads];  // by warp

  __device__ __forceinline__ uint32_t panel(uint32_t p) const { return scratch + p * kTileBytes; }
  __device__ __forceinline__ uint32_t probabilities(uint32_t parity) const {
    return scratch + (kPanels + parity) * kTileBytes;
  }
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
  uint32_t parity;  // of the P^T that is being added
};

/// Rows [first_row, first_row + rows), of one 8-row group, are copied.
template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void load_queries(DecodeQueries<kPanels, kGroups>& queries,
                                             uint32_t panel, const Slot& slot, uint32_t offset,
                                             uint32_t first_row, uint32_t rows) {
  constexpr uint32_t kChunks = kRowBytes / kChunkBytes;
  named_barrier_sync(queries.barrier, kConsumerThreads);  // products with the last queries are done
  const uint32_t thread = thread_place().thread;
  const uint32_t row = thread / kChunks;
  if (row < rows) {
    const uint32_t chunk = thread % kChunks;
    const uint32_t from = slot.data + offset + chunk_offset(first_row + row, chunk);
    const uint32_t to = queries.panel(panel) + chunk_offset(row, chunk);
    *static_cast<uint4*>(__cvta_shared_to_generic(to)) =
        *static_cast<const uint4*>(__cvta_shared_to_generic(from));
  }
  fence_proxy_async_shared();
  named_barrier_sync(queries.barrier, kConsumerThreads);
}
static_assert(kMaxDecodeHeads * kRowBytes / kChunkBytes <= kConsumerThreads);

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
  for (float& value : tile.scores) {
    value = 0.0f;
  }
#pragma unroll
  for (uint32_t h = 0; h < 2 * kGroups; ++h) {
    tile.max[h] = kMinusInfinity;
    tile.alpha[h] = 0.0f;
  }
  tile.parity = 0;
}

template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void scores_async(DecodeAttention<kPanels, kGroups>& tile,
                                             const DecodeQueries<kPanels, kGroups>& queries,
                                             PageRef keys, uint32_t, uint32_t) {
  const uint64_t rows = k_major_descriptor(keys.address());
  wgmma_fence();
#pragma unroll
  for (uint32_t panel = 0; panel < kPanels; ++panel) {
#pragma unroll
    for (uint32_t step = 0; step < kRowBytes / kStepBytes; ++step) {
      wgmma_async<false, false>(
          tile.scores, advance_descriptor(rows, panel * kHalfPanelBytes + step * kStepBytes),
          advance_descriptor(k_major_descriptor(queries.panel(panel)), step * kStepBytes),
          panel + step != 0);
    }
  }
  wgmma_commit();
}

/// Until the scores are complete; `kInFlight` products were issued after them.
template <int kInFlight, uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void scores_wait(DecodeAttention<kPanels, kGroups>& tile) {
  wgmma_wait<kInFlight>();
  pin_registers(tile.scores);
}

/// Heads are masked alike. The maxima of the warps meet in shared memory, and P^T goes there,
/// beside the one that is being added; the maxima's barrier also tells that the page before that
/// one is done with its P^T.
template <uint32_t kPanels, uint32_t kGroups, class LimitOf>
__device__ __forceinline__ void softmax(DecodeAttention<kPanels, kGroups>& tile,
                                        const DecodeQueries<kPanels, kGroups>& queries, uint32_t,
                                        bool, LimitOf limit_of, float scale_log2) {
  const ThreadPlace place = thread_place();
  const uint32_t warp = place.thread / kWarpThreads;
  const uint32_t lane = place.thread % kWarpThreads;
  const uint32_t limit = limit_of(0);
  float masked[4 * kGroups];  // not into the scores: that would serialise the products (C7511)
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
    if (lane < 4) {
      queries.maxima[warp][h / 2 * kGroupHeads + place.pair + h % 2] = highest[h];
    }
  }
  named_barrier_sync(queries.barrier, kConsumerThreads);
  float reference[2 * kGroups];
#pragma unroll
  for (uint32_t h = 0; h < 2 * kGroups; ++h) {
    const uint32_t head = h / 2 * kGroupHeads + place.pair + h % 2;
#pragma unroll
    for (uint32_t w = 0; w < kWarpsPerConsumer; ++w) {
      highest[h] = fmaxf(highest[h], queries.maxima[w][head]);
    }
    tile.alpha[h] = update_maximum(tile.max[h], highest[h], scale_log2);
    reference[h] = exponent_reference(tile.max[h]);
  }
  const uint32_t target =
      queries.probabilities(tile.parity ^ 1u) + chunk_offset(lane % 8, warp * 2 + lane / 8 % 2);
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
  fence_proxy_async_shared();
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
  tile.parity ^= 1u;
}

template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void output_async(DecodeAttention<kPanels, kGroups>& tile,
                                             const DecodeQueries<kPanels, kGroups>& queries,
                                             PageRef values, uint32_t, uint32_t) {
  constexpr uint32_t kStepRows = 16;
  constexpr uint32_t kOnes = 0x3f803f80;  // two bf16
  const uint32_t ones[4] = {kOnes, kOnes, kOnes, kOnes};
  const uint32_t probabilities = queries.probabilities(tile.parity);
  wgmma_fence();
#pragma unroll
  for (uint32_t step = 0; step < kPageTokens / kStepRows; ++step) {
    const uint64_t b = advance_descriptor(k_major_descriptor(probabilities), step * kStepBytes);
#pragma unroll
    for (uint32_t panel = 0; panel < kPanels; ++panel) {
      const uint64_t a =
          advance_descriptor(tile_descriptor(values.address(), kHalfPanelBytes, kSwizzleAtomBytes),
                             panel * kHalfPanelBytes + step * kStepRows * kRowBytes);
      wgmma_async<true, false>(tile.out[panel], a, b, 1);
    }
    wgmma_async<false>(tile.sum, ones, b, 1);
  }
  wgmma_commit();
}

template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void output_wait(DecodeAttention<kPanels, kGroups>& tile) {
  wgmma_wait<0>();
#pragma unroll
  for (auto& panel : tile.out) {
    pin_registers(panel);
  }
  pin_registers(tile.sum);
}

/// total = total (+) part, head by head; an empty part changes nothing.
template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void fold(DecodeAttention<kPanels, kGroups>& total,
                                     const DecodeAttention<kPanels, kGroups>& part, uint32_t,
                                     uint32_t) {
#pragma unroll
  for (uint32_t h = 0; h < 2 * kGroups; ++h) {
    const Fold join(total.max[h], part.max[h]);
#pragma unroll
    for (uint32_t i = h / 2 * 4 + h % 2; i < h / 2 * 4 + 4; i += 2) {
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
