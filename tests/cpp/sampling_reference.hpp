// Sampling by sorting, in double precision where rounding does not decide.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <vector>

#include "terrazzo/arch/host/simd/simd.hpp"
#include "terrazzo/core/step_tables.hpp"

namespace terrazzo::testing {

inline constexpr float kInf = std::numeric_limits<float>::infinity();

/// Token ids, likeliest first; NaN last; ties by id.
inline std::vector<uint32_t> sorted_ids(const std::vector<float>& logits) {
  std::vector<uint32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0U);
  std::stable_sort(ids.begin(), ids.end(), [&](uint32_t a, uint32_t b) {
    return std::isnan(logits[b]) ? !std::isnan(logits[a]) : logits[a] > logits[b];
  });
  return ids;
}

/// How many of the sorted tokens top-k and top-p keep.
inline size_t num_kept(const std::vector<float>& logits, const std::vector<uint32_t>& ids,
                       const LogitInfo& info, double top_p) {
  const size_t by_count = info.top_k == 0 ? ids.size() : std::min<size_t>(info.top_k, ids.size());
  if (info.top_p >= 1) {
    return by_count;
  }
  std::vector<double> weights;
  double total = 0;
  for (size_t i = 0; i < by_count; ++i) {
    const double x = (double{logits[ids[i]]} - double{logits[ids[0]]}) / double{info.temperature};
    weights.push_back(std::isnan(x) ? 0.0 : std::exp(x));
    total += weights.back();
  }
  double sum = 0;
  size_t kept = 0;
  while (kept < by_count && (kept == 0 || sum < top_p * total)) {
    sum += weights[kept++];
  }
  return kept;
}

/// Gumbel argmax over the first `kept` of the sorted tokens.
inline uint32_t choose(const std::vector<float>& logits, const std::vector<uint32_t>& ids,
                       size_t kept, const LogitInfo& info) {
  uint32_t best = ids[0];
  float best_key = -kInf;
  for (size_t i = 0; i < kept; ++i) {
    const uint32_t id = ids[i];
    const float noise = host::gumbel_noise(info.seed, info.output_position, id);
    const float key =
        info.temperature > 0 ? std::fma(logits[id], 1.0F / info.temperature, noise) : logits[id];
    if (key > best_key || (key == best_key && id < best)) {
      best_key = key;
      best = id;
    }
  }
  return best;
}

inline double log_softmax(const std::vector<float>& logits, uint32_t id) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) {
    sum += std::exp(double{logit} - max);
  }
  return double{logits[id]} - max - std::log(sum);
}

// fp32 arithmetic on differences below 64: a few units of 2^-18 in the difference and the sum.
inline constexpr double kLogprobTolerance = 0x1p-16;

/// The token that a row's rules choose; kNoToken where rounding decides how many tokens top-p
/// keeps.
inline constexpr uint32_t kNoToken = 0xffffffffu;
inline uint32_t reference_token(const std::vector<float>& logits, const LogitInfo& info) {
  const auto ids = sorted_ids(logits);
  if (!(info.temperature > 0)) {
    return ids[0];
  }
  const double top_p = double{info.top_p};
  const uint32_t least = choose(logits, ids, num_kept(logits, ids, info, top_p - 1e-6), info);
  const uint32_t most = choose(logits, ids, num_kept(logits, ids, info, top_p + 1e-6), info);
  return least == most ? least : kNoToken;
}

}  // namespace terrazzo::testing
