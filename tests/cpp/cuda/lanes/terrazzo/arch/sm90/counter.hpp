// Counters in global memory, on lanes.
#pragma once

#include <cstdint>

#include "cuda/lanes/lanes.hpp"

namespace terrazzo::sm90 {

/// Who reads the same counter again waits until some counter has changed.
inline uint32_t ld_acquire_gpu(const uint32_t* counter) {
  lanes::Lane& lane = lanes::Launch::lane();
  lanes::Launch& launch = lanes::Launch::current();
  if (lane.counter == counter && lane.counters_seen == launch.counters_changed) {
    launch.is_patient() ? lanes::Launch::block_lane(lanes::Wait::kCounters)
                        : lanes::Launch::yield();
    lane.timed_out = false;
  }
  lane.counter = counter;
  lane.counters_seen = launch.counters_changed;
  return *counter;
}
inline uint32_t ld_acquire_sys(const uint32_t* counter) { return ld_acquire_gpu(counter); }

inline uint32_t atom_add_relaxed_gpu(uint32_t* counter, uint32_t increment) {
  ++lanes::Launch::current().counters_changed;
  const uint32_t before = *counter;
  *counter += increment;
  return before;
}
inline void red_release_add_gpu(uint32_t* counter, uint32_t increment) {
  atom_add_relaxed_gpu(counter, increment);
}
inline void red_release_add_sys(uint32_t* counter, uint32_t increment) {
  atom_add_relaxed_gpu(counter, increment);
}

inline uint32_t ld_relaxed_gpu(const uint32_t* word) { return *word; }
inline uint32_t ld_relaxed_sys(const uint32_t* word) { return *word; }
inline void st_relaxed_sys(uint32_t* word, uint32_t value) {
  ++lanes::Launch::current().counters_changed;
  *word = value;
}

}  // namespace terrazzo::sm90
