// Attention in two forms: many rows of one head, and one row of many heads. Same bits for the same
// query.
#pragma once

#include "terrazzo/tile/sm90/attention_decode.hpp"
#include "terrazzo/tile/sm90/attention_prefill.hpp"

namespace terrazzo::sm90 {

template <uint32_t kPanels>
__device__ __forceinline__ PrefillQueries<kPanels> prefill_queries(Role& role) {
  PrefillQueries<kPanels> queries{};
  queries.ones = shared_address(role.shared().ones);
  return queries;
}

/// `stage` may be written.
template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ DecodeQueries<kPanels, kGroups> decode_queries(Role& role,
                                                                          uint32_t consumer,
                                                                          const Stage& stage) {
  constexpr uint32_t kBytes = DecodeQueries<kPanels, kGroups>::kProbabilityBytes;
  return {stage.tile + kStageBytes - kBytes,
          consumer_barrier(consumer),
          shared_address(role.shared().maxima[consumer]),
          {}};
}

}  // namespace terrazzo::sm90
