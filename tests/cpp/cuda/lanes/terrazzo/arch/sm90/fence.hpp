// Fences and named barriers on lanes. Fences do nothing: lanes see memory in one order.
#pragma once

#include <cstdint>

#include "cuda/lanes/lanes.hpp"

namespace terrazzo::sm90 {

inline void fence_proxy_async() {}
inline void fence_proxy_async_shared() {}

inline bool named_barrier_any(uint32_t barrier, uint32_t threads, bool value) {
  return lanes::named_barrier(barrier, threads, value);
}

inline void named_barrier_sync(uint32_t barrier, uint32_t threads) {
  lanes::named_barrier(barrier, threads, false);
}

}  // namespace terrazzo::sm90
