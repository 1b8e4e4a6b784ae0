// What sampling means on every machine: which candidate wins, and how a row's tokens are cut.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "terrazzo/core/heap.hpp"
#include "terrazzo/core/step_tables.hpp"

namespace terrazzo {

inline constexpr float kLog2E = 0x1.715476p+0f;

// Colder than this is greedy: the factor stays finite, and as a power of two keeps the logits'
// order.
inline constexpr float kMaxInverseTemperature = 0x1p64f;

constexpr TERRAZZO_FN float inverse_temperature(const LogitInfo& info) {
  const float inverse = 1.0f / info.temperature;
  return inverse < kMaxInverseTemperature ? inverse : kMaxInverseTemperature;
}

/// Whether the row samples from its logits in memory; all others choose among candidates.
constexpr TERRAZZO_FN bool is_filtered(const LogitInfo& info) {
  return info.temperature > 0.0f && (info.top_k > 0 || info.top_p < 1.0f);
}

/// The larger key wins, a NaN loses to every number, and ties go to the lowest id.
constexpr TERRAZZO_FN bool wins(float key, uint32_t id, float other_key, uint32_t other_id) {
  const bool valid = key == key;
  const bool other_valid = other_key == other_key;
  if (valid != other_valid) {
    return valid;
  }
  return valid && key != other_key ? key > other_key : id < other_id;
}

/// Loses to every token and adds nothing to the softmax.
constexpr TERRAZZO_FN Candidate no_candidate() {
  return {std::numeric_limits<float>::quiet_NaN(), 0xffffffffu, 0.0f,
          -std::numeric_limits<float>::infinity(), 0.0f,        {}};
}

// --- cuts by top-k and top-p ---
//
// Tokens are ordered by their logit, largest first, then by id, lowest first; top-k and top-p both
// keep a beginning of that order. Where it ends is found by radix selection: a pass over the row's
// logits a digit of the order key, each with a histogram of the tokens that agree with the digits
// found so far.

inline constexpr uint32_t kDigitBits = 8;
inline constexpr uint32_t kDigits = 32 / kDigitBits;
inline constexpr uint32_t kDigitValues = 1u << kDigitBits;

/// Ascending with the logit; 0 for NaN; the same for both zeros. No branches: signs are
/// unpredictable.
constexpr TERRAZZO_FN uint32_t order_key(float logit) {
  const auto bits = std::bit_cast<uint32_t>(logit + 0.0f);
  const uint32_t negative = 0u - (bits >> 31);
  const uint32_t valid = 0u - static_cast<uint32_t>(logit == logit);
  return (bits ^ (negative | 0x80000000u)) & valid;
}

/// The logit (not NaN) of an order key.
constexpr TERRAZZO_FN float logit_of(uint32_t key) {
  return std::bit_cast<float>((key >> 31) != 0 ? key & 0x7fffffffu : ~key);
}

static_assert(order_key(-0.0f) == order_key(0.0f) && order_key(-1.0f) < order_key(0.0f));
static_assert(logit_of(order_key(-2.5f)) == -2.5f && logit_of(order_key(2.5f)) == 2.5f);

/// A beginning of the order: tokens with a larger key, and the `ties` lowest ids of those at `key`.
struct TokenCut {
  uint32_t key;
  uint32_t ties;
};

/// Probabilities are summed as integers, so that their order does not matter: 2^40 is the weight of
/// the likeliest token, and 2^24 tokens of that weight still fit.
inline constexpr float kWeightOne = 0x1p40f;

constexpr TERRAZZO_FN uint64_t fixed_weight(float weight) {
  return weight >= 0.0f ? static_cast<uint64_t>(weight * kWeightOne) : 0;  // NaN: 0
}

/// What a pass over a row's logits is for.
enum class FilterPass : uint32_t { kCount, kWeigh, kChoose };

constexpr TERRAZZO_FN bool cuts_by_count(const LogitInfo& info, uint32_t vocab) {
  return info.top_k > 0 && info.top_k < vocab;
}
constexpr TERRAZZO_FN bool cuts_by_weight(const LogitInfo& info) { return info.top_p < 1.0f; }

/// Passes over the row's logits; a function of the step's tables only.
constexpr TERRAZZO_FN uint32_t filter_passes(const LogitInfo& info, uint32_t vocab) {
  if (!is_filtered(info)) {
    return 0;
  }
  return (cuts_by_count(info, vocab) ? kDigits : 0) + (cuts_by_weight(info) ? kDigits : 0) + 1;
}

/// A row's selection in progress: a few registers.
struct TokenFilter {
  TokenCut cut;   // what is kept so far
  uint32_t tied;  // by top-k: tokens at cut.key, kept or not
  FilterPass pass;
  uint32_t digit;    // of the current pass, most significant first
  uint32_t prefix;   // digits found
  uint64_t left;     // tokens or weight that the tokens from the prefix on must still reach
  float max;         // largest logit
  float scale_log2;  // log2(e) / temperature
  Candidate best;    // of the tokens kept
  uint32_t ties_seen;

  constexpr TERRAZZO_FN uint32_t shift() const { return 32 - kDigitBits * (digit + 1); }

  /// Whether a token is kept so far and agrees with the digits found.
  constexpr TERRAZZO_FN bool matches(uint32_t key) const {
    const uint32_t found = digit == 0 ? 0 : 0xffffffffu << (shift() + kDigitBits);
    return key >= cut.key && ((key ^ prefix) & found) == 0;
  }
  constexpr TERRAZZO_FN uint32_t digit_of(uint32_t key) const {
    return key >> shift() & (kDigitValues - 1);
  }
};

// --- a sampling consumer's stage ---

inline constexpr uint32_t kMaxSampleRows = kHalfRows;
inline constexpr uint32_t kTokensOffset = 0;  // [rows] SampledToken: what leaves
inline constexpr uint32_t kTotalsOffset =
    kTokensOffset + kMaxSampleRows * sizeof(SampledToken);  // [rows] Candidate
inline constexpr uint32_t kWeightsOffset =
    kTotalsOffset + kMaxSampleRows * sizeof(Candidate);  // [values] uint64
inline constexpr uint32_t kCountsOffset =
    kWeightsOffset + kDigitValues * sizeof(uint64_t);  // [values] uint32
static_assert(kCountsOffset + kDigitValues * sizeof(uint32_t) <= kStageBytes);

}  // namespace terrazzo
