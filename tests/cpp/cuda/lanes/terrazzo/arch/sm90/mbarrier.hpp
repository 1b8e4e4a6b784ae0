// mbarriers on lanes.
#pragma once

#include <cstdint>

#include "cuda/lanes/lanes.hpp"

namespace terrazzo::sm90 {

inline uint32_t shared_address(const void* pointer) {
  const auto* const bytes = static_cast<const std::byte*>(pointer);
  return static_cast<uint32_t>(bytes - lanes::Launch::lane().block->shared) + lanes::kSharedBase;
}

inline lanes::Mbarrier& mbarrier_at(uint32_t barrier) {
  return lanes::Launch::lane().block->mbarrier(barrier);
}

inline void mbarrier_init(uint32_t barrier, uint32_t arrivals) {
  const auto count = static_cast<int16_t>(arrivals);
  mbarrier_at(barrier) = {count, count, 0};
}

inline void fence_mbarrier_init() {}

inline void mbarrier_arrive(uint32_t barrier) {
  lanes::Mbarrier& place = mbarrier_at(barrier);
  lanes::require(place.pending > 0, "more arrivals than a barrier expects");
  --place.pending;
  lanes::Launch::current().complete(place);
}

inline void mbarrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
  mbarrier_at(barrier).bytes_and_phase += static_cast<int32_t>(2 * bytes);
  mbarrier_arrive(barrier);
}

/// Now and then false although a little patience would have helped.
inline bool mbarrier_try_wait_parity(uint32_t barrier, uint32_t parity) {
  lanes::Lane& lane = lanes::Launch::lane();
  const auto is_complete = [&] { return mbarrier_at(barrier).parity() != parity; };
  if (is_complete()) {
    return true;
  }
  if (!lanes::Launch::current().is_patient() || lanes::Launch::current().random(8) == 0) {
    lanes::Launch::yield();
    return is_complete();
  }
  lane.barrier = barrier;
  lane.parity = parity;
  lanes::Launch::block_lane(lanes::Wait::kMbarrier);
  lane.timed_out = false;
  return is_complete();
}

}  // namespace terrazzo::sm90
