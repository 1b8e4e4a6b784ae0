// What a blocked role waits for: a barrier's phase, counters, or its own copies.
#pragma once

#include <atomic>
#include <cstdint>

#include "terrazzo/arch/host/barrier.hpp"

namespace terrazzo::host {

inline uint32_t load_counter(const uint32_t* counter) {
  return std::atomic_ref<uint32_t>(*const_cast<uint32_t*>(counter)).load(std::memory_order_acquire);
}

inline bool counters_reached(const uint32_t* first, uint32_t count, uint32_t target) {
  for (uint32_t i = 0; i < count; ++i) {
    if (load_counter(first + i) < target) {
      return false;
    }
  }
  return true;
}

/// One of the three pointers is set, or none: then nothing is waited for.
struct Blocked {
  const Barrier* barrier = nullptr;
  uint32_t parity = 0;
  const uint32_t* counters = nullptr;
  uint32_t count = 0;
  uint32_t target = 0;
  const uint32_t* copies = nullptr;

  bool over() const {
    if (barrier != nullptr) {
      return barrier->test(parity);
    }
    if (counters != nullptr) {
      return counters_reached(counters, count, target);
    }
    return copies == nullptr || *copies == 0;
  }
};

}  // namespace terrazzo::host
