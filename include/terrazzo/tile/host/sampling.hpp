// Sampling verbs: candidates of vocabulary tiles, and the choice of a row's token.
#pragma once

#include <cmath>
#include <cstring>

#include "terrazzo/arch/host/simd/simd.hpp"
#include "terrazzo/arch/host/slot.hpp"
#include "terrazzo/tile/host/tiles.hpp"
#include "terrazzo/tile/sampling.hpp"

namespace terrazzo::host {

template <class T>
inline T load_at(const std::byte* base, uint32_t index) {
  T value;
  std::memcpy(&value, base + index * sizeof(T), sizeof(T));
  return value;
}

template <class T>
inline void store_at(std::byte* base, uint32_t index, const T& value) {
  std::memcpy(base + index * sizeof(T), &value, sizeof(T));
}

// --- lm_head ---

/// The best of tokens [first_id, first_id + n) of one row, and their share of its softmax.
inline Candidate candidate_of(const float* logits, uint32_t n, uint32_t first_id,
                              const LogitInfo& info) {
  if (n == 0) {
    return no_candidate();
  }
  const MaxSumExp plain = max_and_sum_exp_row(logits, n);
  uint32_t best = plain.index;
  float key = logits[best];
  if (info.temperature > 0.0f) {
    float keys[kColTile];
    perturb_row(keys, logits, inverse_temperature(info), info.seed, info.output_position, first_id,
                n);
    best = max_and_sum_exp_row(keys, n).index;
    key = keys[best];
  }
  return {key, first_id + best, logits[best], plain.max, plain.sum, {}};
}

/// Writes each row's candidate, 32 bytes a row. `columns` of the accumulators are tokens from
/// `first_id` on; those from `vocab` on do not exist.
inline void find_candidates(Stage& stage, const Accumulator& acc, uint32_t rows, uint32_t columns,
                            uint32_t first_id, uint32_t vocab, const LogitInfo* infos) {
  const uint32_t existing = vocab > first_id ? vocab - first_id : 0;
  const uint32_t n = columns < existing ? columns : existing;
  for (uint32_t row = 0; row < rows; ++row) {
    store_at(stage.tile, row, candidate_of(acc.values[row], n, first_id, infos[row]));
  }
}

/// 32 columns of the accumulators from `first_col` as rows of fp32, not swizzled.
inline void store_plain_columns(Stage& stage, const Accumulator& acc, uint32_t first_col,
                                uint32_t rows) {
  for (uint32_t row = 0; row < rows; ++row) {
    std::memcpy(stage.tile + row * kRowBytes, &acc.values[row][first_col], kRowBytes);
  }
}

// --- sample: candidates ---

/// The stage's totals before any candidate.
inline void clear_totals(Stage& stage, uint32_t rows) {
  for (uint32_t row = 0; row < rows; ++row) {
    store_at(stage.tile + kTotalsOffset, row, no_candidate());
  }
}

/// exp(x - max); 1 where they are equal, infinite or not.
inline float exp_below(float x, float max) {
  return x == max ? 1.0f : exp2_approx((x - max) * kLog2E);
}

/// total = total (+) candidates [first, first + count) of a slot, in ascending order.
inline void fold_row(Candidate& total, const Slot& slot, uint32_t first, uint32_t count) {
  const std::byte* const candidates = slot.read(static_cast<uint32_t>(first * sizeof(Candidate)),
                                                static_cast<uint32_t>(count * sizeof(Candidate)));
  float max = total.max;
  for (uint32_t i = 0; i < count; ++i) {
    const auto candidate = load_at<Candidate>(candidates, i);
    max = candidate.max > max ? candidate.max : max;
    if (wins(candidate.key, candidate.id, total.key, total.id)) {
      total.key = candidate.key;
      total.id = candidate.id;
      total.logit = candidate.logit;
    }
  }
  total.sum_exp *= exp_below(total.max, max);
  total.max = max;
  for (uint32_t i = 0; i < count; ++i) {
    const auto candidate = load_at<Candidate>(candidates, i);
    total.sum_exp += candidate.sum_exp * exp_below(candidate.max, max);
  }
}

/// Folds `count` candidates for each of the stage's rows [first_row, first_row + rows): they lie
/// row by row in the slot, from candidate `first` on.
inline void fold_candidates(Stage& stage, uint32_t first_row, uint32_t rows, const Slot& slot,
                            uint32_t first, uint32_t count) {
  for (uint32_t i = 0; i < rows; ++i) {
    auto total = load_at<Candidate>(stage.tile + kTotalsOffset, first_row + i);
    fold_row(total, slot, first + i * count, count);
    store_at(stage.tile + kTotalsOffset, first_row + i, total);
  }
}

/// Totals -> tokens with their log-probability under the plain softmax.
inline void finish_tokens(Stage& stage, uint32_t rows) {
  for (uint32_t row = 0; row < rows; ++row) {
    const auto total = load_at<Candidate>(stage.tile + kTotalsOffset, row);
    // A row with a NaN, or with nothing but -inf, has no softmax.
    const float log_sum =
        total.sum_exp > 0.0f ? log_approx(total.sum_exp) : std::numeric_limits<float>::quiet_NaN();
    const float logprob = total.logit - total.max - log_sum;
    store_at(stage.tile + kTokensOffset, row,
             SampledToken{static_cast<int32_t>(total.id), logprob, {}});
  }
}

// --- sample: top-k and top-p ---

inline constexpr uint32_t kFilterBlock = 64;  // logits worked on at a time

/// Weight of a logit in the softmax at the row's temperature.
inline void weigh_row(uint64_t* weights, const TokenFilter& filter, const float* logits,
                      uint32_t n) {
  float x[kFilterBlock];
  for (uint32_t i = 0; i < n; ++i) {
    x[i] = logits[i] == filter.max ? 0.0f : (logits[i] - filter.max) * filter.scale_log2;
  }
  exp2_row(x, x, n);
  for (uint32_t i = 0; i < n; ++i) {
    weights[i] = fixed_weight(x[i]);
  }
}

inline uint64_t weight_of(const TokenFilter& filter, float logit) {
  uint64_t weight;
  weigh_row(&weight, filter, &logit, 1);
  return weight;
}

/// Before pass `pass` over the logits of the stage's row `row`.
inline void begin_pass(TokenFilter& filter, Stage& stage, uint32_t row, uint32_t pass,
                       const LogitInfo& info, uint32_t vocab) {
  const uint32_t count_passes = cuts_by_count(info, vocab) ? kDigits : 0;
  if (pass == 0) {
    const auto total = load_at<Candidate>(stage.tile + kTotalsOffset, row);
    filter = {};
    filter.cut = {0, vocab};
    filter.max = total.max;
    filter.scale_log2 = inverse_temperature(info) * kLog2E;
    filter.best = no_candidate();
  }
  filter.pass = pass < count_passes                     ? FilterPass::kCount
                : pass + 1 < filter_passes(info, vocab) ? FilterPass::kWeigh
                                                        : FilterPass::kChoose;
  filter.digit = (filter.pass == FilterPass::kWeigh ? pass - count_passes : pass) % kDigits;
  if (filter.digit == 0) {
    filter.prefix = 0;
    filter.left = info.top_k;
  }
  std::memset(stage.tile + kWeightsOffset, 0, kDigitValues * sizeof(uint64_t));
  std::memset(stage.tile + kCountsOffset, 0, kDigitValues * sizeof(uint32_t));
}

/// keys[i] = order_key(logits[i]); returns how many of them `counts(key)`.
template <class Counts>
inline uint32_t order_keys(uint32_t* keys, const float* logits, uint32_t n, Counts counts) {
  uint32_t sum = 0;
  for (uint32_t i = 0; i < n; ++i) {
    keys[i] = order_key(logits[i]);
    sum += counts(keys[i]) ? 1 : 0;
  }
  return sum;
}

/// Adds up to kFilterBlock logits to the pass's histogram.
inline void count_block(const TokenFilter& filter, Stage& stage, const float* logits, uint32_t n) {
  uint32_t keys[kFilterBlock];
  if (order_keys(keys, logits, n, [&](uint32_t key) { return filter.matches(key); }) == 0) {
    return;
  }
  if (filter.pass == FilterPass::kCount) {
    std::byte* const counts = stage.tile + kCountsOffset;
    for (uint32_t i = 0; i < n; ++i) {
      if (filter.matches(keys[i])) {
        const uint32_t digit = filter.digit_of(keys[i]);
        store_at(counts, digit, load_at<uint32_t>(counts, digit) + 1);
      }
    }
    return;
  }
  uint64_t weights[kFilterBlock];
  weigh_row(weights, filter, logits, n);
  std::byte* const sums = stage.tile + kWeightsOffset;
  for (uint32_t i = 0; i < n; ++i) {
    if (filter.matches(keys[i])) {
      const uint32_t digit = filter.digit_of(keys[i]);
      store_at(sums, digit, load_at<uint64_t>(sums, digit) + weights[i]);
    }
  }
}

/// The best of up to kFilterBlock tokens from `first_id` on that the cut keeps.
inline void choose_block(TokenFilter& filter, const float* logits, uint32_t first_id, uint32_t n,
                         const LogitInfo& info) {
  uint32_t orders[kFilterBlock];
  if (order_keys(orders, logits, n, [&](uint32_t key) { return key >= filter.cut.key; }) == 0) {
    return;
  }
  float keys[kFilterBlock];
  perturb_row(keys, logits, inverse_temperature(info), info.seed, info.output_position, first_id,
              n);
  for (uint32_t i = 0; i < n; ++i) {
    const bool kept = orders[i] > filter.cut.key ||
                      (orders[i] == filter.cut.key && filter.ties_seen++ < filter.cut.ties);
    if (kept && wins(keys[i], first_id + i, filter.best.key, filter.best.id)) {
      filter.best.key = keys[i];
      filter.best.id = first_id + i;
      filter.best.logit = logits[i];
    }
  }
}

/// The logits of tokens [first_id, first_id + count), from the start of the slot. A row's slots
/// come in ascending order.
inline void add_logits(TokenFilter& filter, Stage& stage, const Slot& slot, uint32_t first_id,
                       uint32_t count, const LogitInfo& info) {
  const std::byte* const bytes = slot.read(0, static_cast<uint32_t>(count * sizeof(float)));
  for (uint32_t i = 0; i < count; i += kFilterBlock) {
    float logits[kFilterBlock];
    const uint32_t n = count - i < kFilterBlock ? count - i : kFilterBlock;
    std::memcpy(logits, bytes + i * sizeof(float), n * sizeof(float));
    if (filter.pass == FilterPass::kChoose) {
      choose_block(filter, logits, first_id + i, n, info);
    } else {
      count_block(filter, stage, logits, n);
    }
  }
}

/// Weight that the kept tokens must reach: top_p of what the cut has left, at least one unit. The
/// stage holds the histogram of the first digit.
inline uint64_t wanted_weight(const TokenFilter& filter, const Stage& stage, float top_p) {
  uint64_t total = 0;
  for (uint32_t digit = 0; digit < kDigitValues; ++digit) {
    total += load_at<uint64_t>(stage.tile + kWeightsOffset, digit);
  }
  if (filter.tied > filter.cut.ties) {
    total -= (filter.tied - filter.cut.ties) * weight_of(filter, logit_of(filter.cut.key));
  }
  const double wanted = std::ceil(static_cast<double>(top_p) * static_cast<double>(total));
  return total == 0 ? 0 : wanted < 1.0 ? 1 : static_cast<uint64_t>(wanted);
}

/// After the last logits of a pass.
inline void end_pass(TokenFilter& filter, Stage& stage, uint32_t row, const LogitInfo& info) {
  std::byte* const totals = stage.tile + kTotalsOffset;
  if (filter.pass == FilterPass::kChoose) {
    auto total = load_at<Candidate>(totals, row);
    total.key = filter.best.key;
    total.id = filter.best.id;
    total.logit = filter.best.logit;
    store_at(totals, row, total);
    return;
  }
  const bool weighs = filter.pass == FilterPass::kWeigh;
  if (weighs && filter.digit == 0) {
    filter.left = wanted_weight(filter, stage, info.top_p);
  }
  if (filter.left == 0) {
    return;  // no token has any weight: nothing to choose by
  }
  uint32_t digit = kDigitValues - 1;
  const auto amount = [&] {
    return weighs ? load_at<uint64_t>(stage.tile + kWeightsOffset, digit)
                  : load_at<uint32_t>(stage.tile + kCountsOffset, digit);
  };
  for (uint64_t here = amount(); here < filter.left; here = amount()) {
    filter.left -= here;
    --digit;
  }
  filter.prefix |= digit << filter.shift();
  if (filter.digit + 1 < kDigits) {
    return;
  }
  const uint64_t ties =
      weighs ? ceil_div(filter.left, weight_of(filter, logit_of(filter.prefix))) : filter.left;
  filter.cut = {filter.prefix, static_cast<uint32_t>(ties)};
  filter.tied = weighs ? 0 : load_at<uint32_t>(stage.tile + kCountsOffset, digit);
}

}  // namespace terrazzo::host
