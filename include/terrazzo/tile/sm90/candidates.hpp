// Verbs of lm_head: the best token of each row in a vocabulary tile, and the tile's plain logits.
//
// The sum over a row's 256 columns is one tree, whichever operand was the weight. Columns are
// 64 p + 16 w + 8 h + q (p, w < 4; h < 2; q < 8): over p in order; the two h; q by neighbours, then
// pairs, then halves; w in order.
#pragma once

#include "terrazzo/arch/sm90/machine.hpp"
#include "terrazzo/arch/sm90/wgmma.hpp"
#include "terrazzo/tile/sm90/sampling_math.hpp"
#include "terrazzo/tile/sm90/shared_values.hpp"
#include "terrazzo/tile/sm90/tiles.hpp"

namespace terrazzo::sm90 {

inline constexpr uint32_t kAllLanes = 0xffffffffu;

__device__ __forceinline__ float negative_infinity() {
  return -std::numeric_limits<float>::infinity();
}

/// The best token among some columns of a row.
struct BestToken {
  float key = std::numeric_limits<float>::quiet_NaN();
  uint32_t id = 0xffffffffu;
  float logit = 0.0f;

  /// The other one if it `wins`: the same order, without branches.
  __device__ __forceinline__ void take(float other_key, uint32_t other_id, float other_logit) {
    const bool invalid = key != key;
    const bool other_invalid = other_key != other_key;
    const bool level = (other_key == key) | (invalid & other_invalid);
    const bool better = (other_key > key) | (invalid & !other_invalid) | (level & (other_id < id));
    key = better ? other_key : key;
    id = better ? other_id : id;
    logit = better ? other_logit : logit;
  }
  __device__ __forceinline__ void take(const BestToken& other) {
    take(other.key, other.id, other.logit);
  }
  /// The better one of this lane and the lane `mask` away, in both.
  __device__ __forceinline__ void exchange(uint32_t mask) {
    const float other_key = __shfl_xor_sync(kAllLanes, key, mask);
    const uint32_t other_id = __shfl_xor_sync(kAllLanes, id, mask);
    const float other_logit = __shfl_xor_sync(kAllLanes, logit, mask);
    take(other_key, other_id, other_logit);
  }
};

/// A warp's part of a row, on its way to the others.
struct alignas(16) RowPart {
  BestToken best;
  float sum;
};
static_assert(sizeof(RowPart) == 16);

__device__ __forceinline__ void store_candidate(const Stage& stage, uint32_t row,
                                                const BestToken& best, float max, float sum) {
  const uint32_t at = stage.tile + row * static_cast<uint32_t>(sizeof(Candidate));
  store_shared(at, make_float4(best.key, __uint_as_float(best.id), best.logit, max));
  store_shared(at + 16, make_float4(sum, 0.0f, 0.0f, 0.0f));
}

/// Columns of the tile that are tokens.
__device__ __forceinline__ uint32_t existing_columns(uint32_t columns, uint32_t first_id,
                                                     uint32_t vocab) {
  const uint32_t existing = vocab > first_id ? vocab - first_id : 0;
  return columns < existing ? columns : existing;
}

/// What a row's logits are measured from; with -inf only, 0 keeps the sum at 0 instead of NaN.
__device__ __forceinline__ float reference_of(float max) {
  return max == negative_infinity() ? 0.0f : max;
}

inline constexpr uint32_t kScanColumns = 2 * kPanelsPerColTile;

/// Adds columns `first`, `first + step` of all four panels, in values [2 * panel + (0 or 1)]: their
/// sums of exp(logit - reference), and the best of them.
__device__ __forceinline__ void scan_columns(BestToken& best, float (&sums)[2],
                                             const float (&values)[kScanColumns], uint32_t first,
                                             uint32_t step, uint32_t existing, uint32_t first_id,
                                             const KeyMaker& maker, float reference) {
  sums[0] = 0.0f;
  sums[1] = 0.0f;
  float keys[kScanColumns];
#pragma unroll
  for (uint32_t k = 0; k < kScanColumns; ++k) {
    const uint32_t column = first + k / 2 * kPanelCols + k % 2 * step;
    const float share = exp2_approx(__fmul_rn(__fsub_rn(values[k], reference), kLog2E));
    sums[k % 2] = __fadd_rn(sums[k % 2], column < existing ? share : 0.0f);
    keys[k] = values[k];
  }
  if (!maker.greedy) {
#pragma unroll
    for (uint32_t k = 0; k < kScanColumns; ++k) {
      keys[k] = maker.key(values[k], first_id + first + k / 2 * kPanelCols + k % 2 * step);
    }
  }
#pragma unroll
  for (uint32_t k = 0; k < kScanColumns; ++k) {
    // A column that is no token has the place of none: an invalid key and the highest id.
    const uint32_t column = first + k / 2 * kPanelCols + k % 2 * step;
    const bool exists = column < existing;
    best.take(exists ? keys[k] : std::numeric_limits<float>::quiet_NaN(),
              exists ? first_id + column : 0xffffffffu, values[k]);
  }
}

// --- rows are token rows ---

// Registers chosen at run time: a branch for each constant `kPlace`, and pinned there. The compiler
// would turn a loop over constants, or equal ends of branches, into one run-time index, and that
// into local memory.

/// Values of row half `place / 8` and 8-column group `place % 8` of all panels.
template <uint32_t kPlace = 0>
__device__ __forceinline__ void take_group(float (&out)[kScanColumns], const Accumulator& acc,
                                           uint32_t place) {
  constexpr uint32_t kGroups = kPanelCols / 8;
  if (place == kPlace) {
#pragma unroll
    for (uint32_t k = 0; k < kScanColumns; ++k) {
      constexpr uint32_t kFirst = kPlace % kGroups * 4 + kPlace / kGroups * 2;
      out[k] = acc.values[k / 2 * (kPanelCols / 2) + kFirst + k % 2];
    }
    pin_registers(out);
  } else if constexpr (kPlace + 1 < 2 * kGroups) {
    take_group<kPlace + 1>(out, acc, place);
  }
}

/// Largest logit of row half `kHalf`, in all lanes of its row.
template <uint32_t kHalf>
__device__ __forceinline__ float row_max(const Accumulator& acc, uint32_t pair, uint32_t existing) {
  float max = negative_infinity();
#pragma unroll
  for (uint32_t i = 0; i < kColTile / 2; ++i) {
    if (i % 4 / 2 == kHalf && i / 4 * 8 + pair + i % 2 < existing) {
      max = fmaxf(max, acc.values[i]);  // a NaN is never the largest
    }
  }
  max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, 1));
  return fmaxf(max, __shfl_xor_sync(kAllLanes, max, 2));
}

/// Writes each row's candidate, 32 bytes a row. `columns` of the accumulators are tokens from
/// `first_id` on; those from `vocab` on do not exist.
__device__ __forceinline__ void find_candidates(Stage& stage, const Accumulator& acc, uint32_t rows,
                                                uint32_t columns, uint32_t first_id, uint32_t vocab,
                                                const LogitInfo* infos) {
  const ThreadPlace place = thread_place();
  if (place.thread / kWarpThreads * 16 >= rows) {
    return;  // none of the warp's 16 rows exists
  }
  const uint32_t existing = existing_columns(columns, first_id, vocab);
  const float low_max = row_max<0>(acc, place.pair, existing);
  const float high_max = row_max<1>(acc, place.pair, existing);
#pragma unroll 1
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t row = place.row + half * 8;
    const KeyMaker maker(infos[row < rows ? row : rows - 1]);
    const float max = half == 0 ? low_max : high_max;
    const float reference = reference_of(max);
    BestToken best;
    float sum = 0.0f;
    float pair_sums[2] = {};
#pragma unroll 1
    for (uint32_t group = 0; group < kPanelCols / 8; ++group) {
      float values[kScanColumns];
      take_group(values, acc, half * (kPanelCols / 8) + group);
      float sums[2];
      scan_columns(best, sums, values, group * 8 + place.pair, 1, existing, first_id, maker,
                   reference);
      if (group % 2 == 0) {
        pair_sums[0] = sums[0];
        pair_sums[1] = sums[1];
      } else {
        float part = __fadd_rn(__fadd_rn(pair_sums[0], sums[0]), __fadd_rn(pair_sums[1], sums[1]));
        part = __fadd_rn(part, __shfl_xor_sync(kAllLanes, part, 1));
        part = __fadd_rn(part, __shfl_xor_sync(kAllLanes, part, 2));
        sum = __fadd_rn(sum, part);
      }
    }
    best.exchange(1);
    best.exchange(2);
    if (place.pair == 0 && row < rows) {
      store_candidate(stage, row, best, max, sum);
    }
  }
}

inline constexpr uint32_t kStageCols = kRowBytes / sizeof(float);

/// 32 columns of the accumulators from `first_col` as rows of fp32, not swizzled.
template <uint32_t kPiece = 0>
__device__ __forceinline__ void store_plain_columns(Stage& stage, const Accumulator& acc,
                                                    uint32_t first_col, uint32_t rows) {
  if (first_col == kPiece * kStageCols) {
    const ThreadPlace place = thread_place();
#pragma unroll
    for (uint32_t i = 0; i < kStageCols / 2; i += 2) {
      const uint32_t row = place.row + i % 4 / 2 * 8;
      const uint32_t column = i / 4 * 8 + place.pair;
      constexpr uint32_t kFirst = kPiece * kStageCols / 2;
      if (row < rows) {
        store_shared(stage.tile + row * kRowBytes + column * static_cast<uint32_t>(sizeof(float)),
                     make_float2(acc.values[kFirst + i], acc.values[kFirst + i + 1]));
      }
    }
  } else if constexpr ((kPiece + 1) * kStageCols < kColTile) {
    store_plain_columns<kPiece + 1>(stage, acc, first_col, rows);
  }
}

// --- operands swapped: rows of the accumulators are columns, and a token's lie in all warps ---

/// Values of the thread's token `place` (of 8) in all panels.
template <uint32_t kPlace = 0>
__device__ __forceinline__ void take_group(float (&out)[kScanColumns], const SmallAccumulator& acc,
                                           uint32_t place) {
  if (place == kPlace) {
#pragma unroll
    for (uint32_t k = 0; k < kScanColumns; ++k) {
      out[k] = acc.values[k / 2][kPlace / 2 * 4 + k % 2 * 2 + kPlace % 2];
    }
    pin_registers(out);
  } else if constexpr (kPlace + 1 < kSmallTokensPerConsumer / 4) {
    take_group<kPlace + 1>(out, acc, place);
  }
}

// In the stage, behind the candidates of 32 tokens.
inline constexpr uint32_t kPartMaximaOffset =
    kSmallTokensPerConsumer * sizeof(Candidate);  // [warp][token] float
inline constexpr uint32_t kRowPartsOffset =
    kPartMaximaOffset + kWarpsPerConsumer * kSmallTokensPerConsumer * sizeof(float);  // RowPart
static_assert(kRowPartsOffset + kWarpsPerConsumer * kSmallTokensPerConsumer * sizeof(RowPart) <=
              kStageBytes);

__device__ __forceinline__ uint32_t part_max_address(const Stage& stage, uint32_t warp,
                                                     uint32_t token) {
  return stage.tile + kPartMaximaOffset +
         (warp * kSmallTokensPerConsumer + token) * static_cast<uint32_t>(sizeof(float));
}
__device__ __forceinline__ uint32_t row_part_address(const Stage& stage, uint32_t warp,
                                                     uint32_t token) {
  return stage.tile + kRowPartsOffset +
         (warp * kSmallTokensPerConsumer + token) * static_cast<uint32_t>(sizeof(RowPart));
}

/// Each warp's largest logit of each token, into the stage.
__device__ __forceinline__ void store_part_maxima(const Stage& stage, const SmallAccumulator& acc,
                                                  const ThreadPlace& place, uint32_t rows,
                                                  uint32_t existing) {
#pragma unroll
  for (uint32_t token = 0; token < kSmallTokensPerConsumer / 4; ++token) {
    if (token / 2 * 8 < rows) {
      float max = negative_infinity();
#pragma unroll
      for (uint32_t k = 0; k < kScanColumns; ++k) {
        if (k / 2 * kPanelCols + place.row + k % 2 * 8 < existing) {
          max = fmaxf(max, acc.values[k / 2][token / 2 * 4 + k % 2 * 2 + token % 2]);
        }
      }
#pragma unroll
      for (uint32_t mask = 4; mask < kWarpThreads; mask *= 2) {
        max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, mask));
      }
      if (place.thread % kWarpThreads < 4) {
        store_shared(part_max_address(stage, place.thread / kWarpThreads,
                                      token / 2 * 8 + place.pair + token % 2),
                     max);
      }
    }
  }
}

__device__ __forceinline__ float token_max(const Stage& stage, uint32_t token) {
  float max = negative_infinity();
#pragma unroll
  for (uint32_t warp = 0; warp < kWarpsPerConsumer; ++warp) {
    max = fmaxf(max, load_shared<float>(part_max_address(stage, warp, token)));
  }
  return max;
}

__device__ __forceinline__ void find_candidates(Stage& stage, const SmallAccumulator& acc,
                                                uint32_t rows, uint32_t columns, uint32_t first_id,
                                                uint32_t vocab, const LogitInfo* infos) {
  const ThreadPlace place = thread_place();
  const uint32_t warp = place.thread / kWarpThreads;
  const uint32_t existing = existing_columns(columns, first_id, vocab);
  store_part_maxima(stage, acc, place, rows, existing);
  named_barrier_sync(stage.barrier, kConsumerThreads);
#pragma unroll 1
  for (uint32_t at = 0; at / 2 * 8 < rows; ++at) {
    const uint32_t token = at / 2 * 8 + place.pair + at % 2;
    const KeyMaker maker(infos[token < rows ? token : rows - 1]);
    float values[kScanColumns];
    take_group(values, acc, at);
    RowPart part{};
    float sums[2];
    scan_columns(part.best, sums, values, place.row, 8, existing, first_id, maker,
                 reference_of(token_max(stage, token)));
    part.sum = __fadd_rn(sums[0], sums[1]);
#pragma unroll
    for (uint32_t mask = 4; mask < kWarpThreads; mask *= 2) {
      part.sum = __fadd_rn(part.sum, __shfl_xor_sync(kAllLanes, part.sum, mask));
      part.best.exchange(mask);
    }
    if (place.thread % kWarpThreads < 4) {
      store_shared(
          row_part_address(stage, warp, token),
          make_float4(part.best.key, __uint_as_float(part.best.id), part.best.logit, part.sum));
    }
  }
  named_barrier_sync(stage.barrier, kConsumerThreads);
  if (place.thread < rows) {
    BestToken best;
    float sum = 0.0f;
#pragma unroll
    for (uint32_t w = 0; w < kWarpsPerConsumer; ++w) {
      const auto part = load_shared<RowPart>(row_part_address(stage, w, place.thread));
      best.take(part.best);
      sum = __fadd_rn(sum, part.sum);
    }
    store_candidate(stage, place.thread, best, token_max(stage, place.thread), sum);
  }
}

template <uint32_t kPanel = 0>
__device__ __forceinline__ void store_plain_columns(Stage& stage, const SmallAccumulator& acc,
                                                    uint32_t first_col, uint32_t rows) {
  const ThreadPlace place = thread_place();
  if (place.row / kStageCols != first_col % kPanelCols / kStageCols) {
    return;  // the warp holds the other half of the panel's columns
  }
  if (first_col / kPanelCols == kPanel) {
#pragma unroll
    for (uint32_t i = 0; i < kSmallTokensPerConsumer / 2; ++i) {
      const uint32_t token = i / 4 * 8 + place.pair + i % 2;
      const uint32_t column = place.row % kStageCols + i % 4 / 2 * 8;
      if (token < rows) {
        store_shared(stage.tile + token * kRowBytes + column * static_cast<uint32_t>(sizeof(float)),
                     acc.values[kPanel][i]);
      }
    }
  } else if constexpr (kPanel + 1 < kPanelsPerColTile) {
    store_plain_columns<kPanel + 1>(stage, acc, first_col, rows);
  }
}

}  // namespace terrazzo::sm90
