// Top-k and top-p on a consumer's 128 threads: histograms of a row's order keys in its stage.
//
// All threads hold the same filter, except for the best token they have seen. Every barrier is
// reached whatever the logits are.
#pragma once

#include "terrazzo/tile/sm90/candidates.hpp"

namespace terrazzo::sm90 {

/// The row whose totals this thread clears and finishes.
__device__ __forceinline__ uint32_t owned_row() {
  const uint32_t thread = thread_place().thread;
  return thread % kWarpThreads * kWarpsPerConsumer + thread / kWarpThreads;
}

__device__ __forceinline__ uint32_t total_address(const Stage& stage, uint32_t row) {
  return stage.tile + kTotalsOffset + row * static_cast<uint32_t>(sizeof(Candidate));
}

__device__ __forceinline__ uint32_t weight_address(const Stage& stage, uint32_t digit) {
  return stage.tile + kWeightsOffset + digit * static_cast<uint32_t>(sizeof(uint64_t));
}

__device__ __forceinline__ uint32_t count_address(const Stage& stage, uint32_t digit) {
  return stage.tile + kCountsOffset + digit * static_cast<uint32_t>(sizeof(uint32_t));
}

// While tokens are chosen, the histograms' place holds what the warps tell one another.
__device__ __forceinline__ uint32_t warp_best_address(const Stage& stage, uint32_t warp) {
  return stage.tile + kWeightsOffset + warp * static_cast<uint32_t>(sizeof(float4));
}
__device__ __forceinline__ uint32_t warp_ties_address(const Stage& stage, uint32_t warp) {
  return count_address(stage, warp);
}

/// Weight of a logit in the softmax at the row's temperature.
__device__ __forceinline__ uint64_t weight_of(const TokenFilter& filter, float logit) {
  const float x =
      logit == filter.max ? 0.0f : __fmul_rn(__fsub_rn(logit, filter.max), filter.scale_log2);
  return fixed_weight(exp2_poly(x));
}

/// Before pass `pass` over the logits of the stage's row `row`.
__device__ __forceinline__ void begin_pass(TokenFilter& filter, Stage& stage, uint32_t row,
                                           uint32_t pass, const LogitInfo& info, uint32_t vocab) {
  const uint32_t count_passes = cuts_by_count(info, vocab) ? kDigits : 0;
  named_barrier_sync(stage.barrier, kConsumerThreads);  // totals are folded, histograms read
  if (pass == 0) {
    filter = {};
    filter.cut = {0, vocab};
    filter.max = load_shared<Candidate>(total_address(stage, row)).max;
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
  for (uint32_t digit = thread_place().thread; digit < kDigitValues; digit += kConsumerThreads) {
    store_shared(weight_address(stage, digit), uint64_t{0});
    store_shared(count_address(stage, digit), 0u);
  }
  named_barrier_sync(stage.barrier, kConsumerThreads);
}

/// Adds to a 64-bit sum in two words: no 64-bit addition exists for shared memory.
__device__ __forceinline__ void add_weight(uint32_t address, uint64_t weight) {
  const auto low = static_cast<uint32_t>(weight);
  const uint32_t before = atomicAdd(&shared_ref<uint32_t>(address), low);
  const uint32_t high = static_cast<uint32_t>(weight >> 32) + (before + low < before ? 1 : 0);
  if (high != 0) {
    atomicAdd(&shared_ref<uint32_t>(address + 4), high);
  }
}

/// Adds tokens, or their weight, to a digit of the pass's histogram.
__device__ __forceinline__ void add_amount(const TokenFilter& filter, const Stage& stage,
                                           uint32_t digit, uint64_t amount) {
  if (filter.pass == FilterPass::kWeigh) {
    add_weight(weight_address(stage, digit), amount);
  } else {
    atomicAdd(&shared_ref<uint32_t>(count_address(stage, digit)), static_cast<uint32_t>(amount));
  }
}

inline constexpr uint32_t kVectorLogits = 4;  // that a thread takes at a time
inline constexpr uint32_t kWarpLogits = kVectorLogits * kWarpThreads;

/// Four logits of a slot, from logit `i` on, and their order keys.
struct LogitVector {
  float logits[kVectorLogits];
  uint32_t keys[kVectorLogits];
  uint32_t exist;  // how many of them

  __device__ __forceinline__ LogitVector(uint32_t slot, uint32_t i, uint32_t end)
      : exist(i < end ? end - i : 0) {
    // Past the end lies the rest of the slot.
    const auto vector = load_shared<float4>(slot + i * static_cast<uint32_t>(sizeof(float)));
    logits[0] = vector.x;
    logits[1] = vector.y;
    logits[2] = vector.z;
    logits[3] = vector.w;
#pragma unroll
    for (uint32_t j = 0; j < kVectorLogits; ++j) {
      keys[j] = order_key(logits[j]);
    }
  }

  /// What logit `j` adds to the pass's histogram.
  __device__ __forceinline__ uint64_t amount(const TokenFilter& filter, uint32_t j) const {
    if (j >= exist || !filter.matches(keys[j])) {
      return 0;
    }
    return filter.pass == FilterPass::kWeigh ? weight_of(filter, logits[j]) : 1;
  }
};

/// Sum over a warp of numbers below 2^54.
__device__ __forceinline__ uint64_t warp_sum(uint64_t value) {
  constexpr uint32_t kPartBits = 18;
  uint64_t sum = 0;
#pragma unroll
  for (uint32_t shift = 0; shift < 3 * kPartBits; shift += kPartBits) {
    const auto part = static_cast<uint32_t>(value >> shift) & ((1u << kPartBits) - 1);
    sum += uint64_t{__reduce_add_sync(kAllLanes, part)} << shift;
  }
  return sum;
}

/// The first digit, sign and most of the exponent, has few values among the logits, and threads
/// that add at one address wait for one another: a warp keeps the sums of four values in registers,
/// for a slot.
__device__ __forceinline__ void count_first_digit(const TokenFilter& filter, const Stage& stage,
                                                  const Slot& slot, uint32_t count) {
  constexpr uint32_t kKept = 4;
  const uint32_t thread = thread_place().thread;
  uint32_t kept[kKept];
  uint64_t amounts[kKept] = {};
  const uint32_t sample =
      filter.digit_of(LogitVector(slot.data, thread * kVectorLogits, count).keys[0]);
  uint32_t others = kAllLanes;
#pragma unroll
  for (uint32_t k = 0; k < kKept; ++k) {
    const uint32_t leader = others != 0 ? __ffs(static_cast<int>(others)) - 1 : 0;
    const uint32_t digit = __shfl_sync(kAllLanes, sample, leader);
    kept[k] = others != 0 ? digit : kDigitValues;
    others &= ~__ballot_sync(kAllLanes, sample == digit);
  }
#pragma unroll 1
  for (uint32_t i = thread * kVectorLogits; i < count; i += kConsumerThreads * kVectorLogits) {
    const LogitVector vector(slot.data, i, count);
#pragma unroll
    for (uint32_t j = 0; j < kVectorLogits; ++j) {
      const uint64_t amount = vector.amount(filter, j);
      const uint32_t digit = filter.digit_of(vector.keys[j]);
      bool added = amount == 0;
#pragma unroll
      for (uint32_t k = 0; k < kKept; ++k) {
        amounts[k] += digit == kept[k] ? amount : 0;
        added |= digit == kept[k];
      }
      if (!added) {
        add_amount(filter, stage, digit, amount);
      }
    }
  }
#pragma unroll
  for (uint32_t k = 0; k < kKept; ++k) {
    const uint64_t sum = warp_sum(amounts[k]);
    if (sum != 0 && thread % kWarpThreads == 0) {
      add_amount(filter, stage, kept[k], sum);
    }
  }
}

/// Other digits: few logits match, and their digits differ.
__device__ __forceinline__ void count_next_digit(const TokenFilter& filter, const Stage& stage,
                                                 const Slot& slot, uint32_t count) {
#pragma unroll 1
  for (uint32_t i = thread_place().thread * kVectorLogits; i < count;
       i += kConsumerThreads * kVectorLogits) {
    const LogitVector vector(slot.data, i, count);
#pragma unroll
    for (uint32_t j = 0; j < kVectorLogits; ++j) {
      const uint64_t amount = vector.amount(filter, j);
      if (amount != 0) {
        add_amount(filter, stage, filter.digit_of(vector.keys[j]), amount);
      }
    }
  }
}

/// The best tokens that the cut keeps. Each warp takes a quarter of the slot, in ascending order,
/// so that the lowest ids of those tied at the cut are known.
__device__ __forceinline__ void choose_logits(TokenFilter& filter, const Stage& stage,
                                              const Slot& slot, uint32_t first_id, uint32_t count,
                                              const LogitInfo& info) {
  constexpr uint32_t kQuarter = kSlotBytes / sizeof(float) / kWarpsPerConsumer;
  const uint32_t thread = thread_place().thread;
  const uint32_t warp = thread / kWarpThreads;
  const uint32_t lane = thread % kWarpThreads;
  const uint32_t begin = warp * kQuarter;
  const uint32_t end = begin + kQuarter < count ? begin + kQuarter : count;
  uint32_t ties = 0;
  for (uint32_t base = begin; base < end; base += kWarpLogits) {
    const LogitVector vector(slot.data, base + lane * kVectorLogits, end);
#pragma unroll
    for (uint32_t j = 0; j < kVectorLogits; ++j) {
      ties += j < vector.exist && vector.keys[j] == filter.cut.key ? 1 : 0;
    }
  }
  ties = __reduce_add_sync(kAllLanes, ties);
  if (lane == 0) {
    store_shared(warp_ties_address(stage, warp), ties);
  }
  named_barrier_sync(stage.barrier, kConsumerThreads);
  uint32_t seen = filter.ties_seen;
#pragma unroll
  for (uint32_t w = 0; w < kWarpsPerConsumer; ++w) {
    const uint32_t here = load_shared<uint32_t>(warp_ties_address(stage, w));
    seen += w < warp ? here : 0;
    filter.ties_seen += here;
  }
  named_barrier_sync(stage.barrier, kConsumerThreads);  // the next slot's ties may be written
  const KeyMaker maker(info);
  BestToken best{filter.best.key, filter.best.id, filter.best.logit};
#pragma unroll 1
  for (uint32_t base = begin; base < end; base += kWarpLogits) {
    const uint32_t i = base + lane * kVectorLogits;
    const LogitVector vector(slot.data, i, end);
    bool any = false;
#pragma unroll
    for (uint32_t j = 0; j < kVectorLogits; ++j) {
      any |= j < vector.exist && vector.keys[j] >= filter.cut.key;
    }
    if (!__any_sync(kAllLanes, any)) {
      continue;
    }
    uint32_t rank = seen;  // of the lane's first tie: all of lower lanes come before
#pragma unroll
    for (uint32_t j = 0; j < kVectorLogits; ++j) {
      const uint32_t tied =
          __ballot_sync(kAllLanes, j < vector.exist && vector.keys[j] == filter.cut.key);
      rank += __popc(tied & ((1u << lane) - 1));
      seen += __popc(tied);
    }
#pragma unroll
    for (uint32_t j = 0; j < kVectorLogits; ++j) {
      const bool tied = vector.keys[j] == filter.cut.key;
      const bool kept = vector.keys[j] > filter.cut.key || (tied && rank < filter.cut.ties);
      rank += tied ? 1 : 0;
      if (j < vector.exist && kept) {
        best.take(maker.key(vector.logits[j], first_id + i + j), first_id + i + j,
                  vector.logits[j]);
      }
    }
  }
  filter.best.key = best.key;
  filter.best.id = best.id;
  filter.best.logit = best.logit;
}

/// The logits of tokens [first_id, first_id + count), from the start of the slot. A row's slots
/// come in ascending order.
__device__ __forceinline__ void add_logits(TokenFilter& filter, Stage& stage, const Slot& slot,
                                           uint32_t first_id, uint32_t count,
                                           const LogitInfo& info) {
  if (filter.pass == FilterPass::kChoose) {
    choose_logits(filter, stage, slot, first_id, count, info);
  } else if (filter.digit == 0) {
    count_first_digit(filter, stage, slot, count);
  } else {
    count_next_digit(filter, stage, slot, count);
  }
}

/// Writes the row's choice into its total: by the row's warp.
__device__ __forceinline__ void end_choice(const TokenFilter& filter, Stage& stage, uint32_t row) {
  const uint32_t thread = thread_place().thread;
  BestToken best{filter.best.key, filter.best.id, filter.best.logit};
#pragma unroll
  for (uint32_t mask = 1; mask < kWarpThreads; mask *= 2) {
    best.exchange(mask);
  }
  if (thread % kWarpThreads == 0) {
    store_shared(warp_best_address(stage, thread / kWarpThreads),
                 make_float4(best.key, __uint_as_float(best.id), best.logit, 0.0f));
  }
  named_barrier_sync(stage.barrier, kConsumerThreads);
  if (thread == row % kWarpsPerConsumer * kWarpThreads) {
    for (uint32_t warp = 0; warp < kWarpsPerConsumer; ++warp) {
      const auto other = load_shared<float4>(warp_best_address(stage, warp));
      best.take(other.x, __float_as_uint(other.y), other.z);
    }
    auto total = load_shared<Candidate>(total_address(stage, row));
    total.key = best.key;
    total.id = best.id;
    total.logit = best.logit;
    store_shared(total_address(stage, row), total);
  }
}

/// Weight that the kept tokens must reach: top_p of what the cut has left, at least one unit.
/// `total` is the weight of all tokens from the cut's key on.
__device__ __forceinline__ uint64_t wanted_weight(const TokenFilter& filter, uint64_t total,
                                                  float top_p) {
  if (filter.tied > filter.cut.ties) {
    total -= (filter.tied - filter.cut.ties) * weight_of(filter, logit_of(filter.cut.key));
  }
  const double wanted = ceil(__dmul_rn(static_cast<double>(top_p), __ull2double_rn(total)));
  return total == 0 ? 0 : wanted < 1.0 ? 1 : static_cast<uint64_t>(wanted);
}

/// After the last logits of a pass. Each warp walks the histogram for itself: lane l has digits
/// from 255 - 8 l downwards.
__device__ __forceinline__ void end_pass(TokenFilter& filter, Stage& stage, uint32_t row,
                                         const LogitInfo& info) {
  if (filter.pass == FilterPass::kChoose) {
    end_choice(filter, stage, row);
    return;
  }
  named_barrier_sync(stage.barrier, kConsumerThreads);  // all logits are counted
  constexpr uint32_t kLaneDigits = kDigitValues / kWarpThreads;
  const bool weighs = filter.pass == FilterPass::kWeigh;
  const uint32_t lane = thread_place().thread % kWarpThreads;
  uint64_t amounts[kLaneDigits];
  uint64_t sum = 0;
#pragma unroll
  for (uint32_t i = 0; i < kLaneDigits; ++i) {
    const uint32_t digit = kDigitValues - 1 - lane * kLaneDigits - i;
    amounts[i] = weighs ? load_shared<uint64_t>(weight_address(stage, digit))
                        : load_shared<uint32_t>(count_address(stage, digit));
    sum += amounts[i];
  }
  uint64_t reached = sum;  // by digits down to this lane's last
#pragma unroll
  for (uint32_t step = 1; step < kWarpThreads; step *= 2) {
    const uint64_t before = __shfl_up_sync(kAllLanes, reached, step);
    reached += lane >= step ? before : 0;
  }
  if (weighs && filter.digit == 0) {
    filter.left =
        wanted_weight(filter, __shfl_sync(kAllLanes, reached, kWarpThreads - 1), info.top_p);
  }
  if (filter.left == 0) {
    return;  // no token has any weight: nothing to choose by
  }
  const uint32_t lanes = __ballot_sync(kAllLanes, reached >= filter.left);
  const uint32_t owner = lanes != 0 ? __ffs(static_cast<int>(lanes)) - 1 : kWarpThreads - 1;
  uint64_t left = filter.left - (reached - sum);
  uint32_t digit = kDigitValues - 1 - lane * kLaneDigits;
  uint64_t here = amounts[0];
  bool found = left <= here;
#pragma unroll
  for (uint32_t i = 1; i < kLaneDigits; ++i) {
    if (!found) {
      left -= here;
      --digit;
      here = amounts[i];
      found = left <= here;
    }
  }
  digit = __shfl_sync(kAllLanes, digit, owner);
  filter.left = __shfl_sync(kAllLanes, left, owner);
  here = __shfl_sync(kAllLanes, here, owner);
  filter.prefix |= digit << filter.shift();
  if (filter.digit + 1 < kDigits) {
    return;
  }
  const uint64_t ties =
      weighs ? ceil_div(filter.left, weight_of(filter, logit_of(filter.prefix))) : filter.left;
  filter.cut = {filter.prefix, static_cast<uint32_t>(ties)};
  filter.tied = weighs ? 0 : static_cast<uint32_t>(here);
}

}  // namespace terrazzo::sm90
