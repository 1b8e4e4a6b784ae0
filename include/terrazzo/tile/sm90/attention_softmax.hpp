// The arithmetic of one query in attention, shared by both forms so that their bits agree.
#pragma once

#include <cmath>
#include <cstdint>

#include "terrazzo/arch/sm90/machine.hpp"
#include "terrazzo/arch/sm90/special.hpp"

namespace terrazzo::sm90 {

inline constexpr float kMinusInfinity = -INFINITY;

/// A page of keys or values in a slot.
struct PageRef {
  Slot slot;
  uint32_t offset;

  __device__ __forceinline__ uint32_t address() const { return slot.data + offset; }
};

/// Probabilities may grow to 2^8 before their reference moves: bf16 keeps their relative accuracy,
/// and the output is seldom scaled.
inline constexpr float kMostGrowthLog2 = 8.0f;

/// Whether a query's reference moves: `score` exceeds it by more than the growth.
__device__ __forceinline__ bool exceeds(float max, float score, float scale_log2) {
  return __fmul_rn(score, scale_log2) > __fadd_rn(max, kMostGrowthLog2);
}

/// `highest` is the largest visible score of a page. `max` is what scaled scores lose before they
/// become exponents: the largest of some page, which none so far exceeds by more than the growth.
/// Returns the factor of the output and sum so far.
__device__ __forceinline__ float update_maximum(float& max, float highest, float scale_log2) {
  const float before = max;
  const bool grows = exceeds(before, highest, scale_log2);
  max = grows ? __fmul_rn(highest, scale_log2) : before;
  return grows ? exp2_approx(__fsub_rn(before, max)) : 1.0f;
}

__device__ __forceinline__ float exponent_reference(float max) {
  return max == kMinusInfinity ? 0.0f : max;  // nothing visible yet
}

__device__ __forceinline__ float probability(float score, float scale_log2, float reference) {
  return exp2_approx(fmaf(score, scale_log2, -reference));
}

/// How a query's partial result joins its total. Where all scores are NaN the maximum stays that of
/// nothing; the sum tells the two apart.
class Fold {
 public:
  __device__ __forceinline__ Fold(float& total_max, float total_sum, float part_max, float part_sum)
      : part_empty_(part_max == kMinusInfinity && part_sum == 0.0f),
        total_empty_(total_max == kMinusInfinity && total_sum == 0.0f) {
    const float max = fmaxf(total_max, part_max);
    const float reference = max == kMinusInfinity ? 0.0f : max;
    keep_ = exp2_approx(__fsub_rn(total_max, reference));
    take_ = exp2_approx(__fsub_rn(part_max, reference));
    total_max = max;
  }

  __device__ __forceinline__ float operator()(float total, float part) const {
    const float both = fmaf(part, take_, __fmul_rn(total, keep_));
    return part_empty_ ? total : total_empty_ ? part : both;
  }

 private:
  bool part_empty_;
  bool total_empty_;
  float keep_;
  float take_;
};

}  // namespace terrazzo::sm90
