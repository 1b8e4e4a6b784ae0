// Sampling verbs: candidates of vocabulary tiles, and the choice of a row's token.
//
// Row r of a sampling consumer's stage belongs to its warp r % 4.
#pragma once

#include "terrazzo/tile/sm90/candidates.hpp"
#include "terrazzo/tile/sm90/token_filter.hpp"

namespace terrazzo::sm90 {

/// The stage's totals before any candidate.
__device__ __forceinline__ void clear_totals(Stage& stage, uint32_t rows) {
  const uint32_t row = owned_row();
  if (row < rows) {
    store_shared(total_address(stage, row), no_candidate());
  }
}

/// exp(x - max); 1 where they are equal, infinite or not.
__device__ __forceinline__ float exp_below(float x, float max) {
  return x == max ? 1.0f : exp2_approx((x - max) * kLog2E);
}

/// total = total (+) `count` candidates at an address: by a warp, each lane a candidate in 32.
__device__ __forceinline__ void fold_row(Candidate& total, uint32_t candidates, uint32_t count) {
  const uint32_t lane = thread_place().thread % kWarpThreads;
  const auto candidate_at = [&](uint32_t i) TERRAZZO_LAMBDA {
    return load_shared<Candidate>(candidates + i * static_cast<uint32_t>(sizeof(Candidate)));
  };
  BestToken best{total.key, total.id, total.logit};
  float max = total.max;
  for (uint32_t i = lane; i < count; i += kWarpThreads) {
    const Candidate candidate = candidate_at(i);
    max = fmaxf(max, candidate.max);
    best.take(candidate.key, candidate.id, candidate.logit);
  }
#pragma unroll
  for (uint32_t mask = 1; mask < kWarpThreads; mask *= 2) {
    max = fmaxf(max, __shfl_xor_sync(kAllLanes, max, mask));
    best.exchange(mask);
  }
  float sum = 0.0f;
  for (uint32_t i = lane; i < count; i += kWarpThreads) {
    const Candidate candidate = candidate_at(i);
    sum += candidate.sum_exp * exp_below(candidate.max, max);
  }
#pragma unroll
  for (uint32_t mask = 1; mask < kWarpThreads; mask *= 2) {
    sum += __shfl_xor_sync(kAllLanes, sum, mask);
  }
  total.sum_exp = total.sum_exp * exp_below(total.max, max) + sum;
  total.key = best.key;
  total.id = best.id;
  total.logit = best.logit;
  total.max = max;
}

/// Folds `count` candidates for each of the stage's rows [first_row, first_row + rows): they lie
/// row by row in the slot, from candidate `first` on.
__device__ __forceinline__ void fold_candidates(Stage& stage, uint32_t first_row, uint32_t rows,
                                                const Slot& slot, uint32_t first, uint32_t count) {
  const uint32_t thread = thread_place().thread;
  const uint32_t warp = thread / kWarpThreads;
  for (uint32_t i = (warp - first_row) % kWarpsPerConsumer; i < rows; i += kWarpsPerConsumer) {
    const uint32_t address = total_address(stage, first_row + i);
    __syncwarp();  // the last total is written
    auto total = load_shared<Candidate>(address);
    fold_row(total, slot.data + (first + i * count) * static_cast<uint32_t>(sizeof(Candidate)),
             count);
    if (thread % kWarpThreads == 0) {
      store_shared(address, total);
    }
  }
}

/// Totals -> tokens with their log-probability under the plain softmax.
__device__ __forceinline__ void finish_tokens(Stage& stage, uint32_t rows) {
  __syncwarp();  // the totals of the warp's rows are written
  const uint32_t row = owned_row();
  if (row < rows) {
    const auto total = load_shared<Candidate>(total_address(stage, row));
    // A row with a NaN, or with nothing but -inf, has no softmax.
    const float log_sum =
        total.sum_exp > 0.0f ? log_poly(total.sum_exp) : std::numeric_limits<float>::quiet_NaN();
    const float logprob = total.logit - total.max - log_sum;
    store_shared(stage.tile + kTokensOffset + row * static_cast<uint32_t>(sizeof(SampledToken)),
                 SampledToken{static_cast<int32_t>(total.id), logprob, {}});
  }
}

}  // namespace terrazzo::sm90
