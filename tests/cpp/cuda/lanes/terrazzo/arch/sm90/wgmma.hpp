// wgmma on lanes: products read and write when the launch lets something happen, or at a wait.
#pragma once

#include <cstdint>

#include "cuda/lanes/lanes.hpp"
#include "terrazzo/arch/sm90/descriptor.hpp"

namespace terrazzo::sm90 {

template <bool kTransA, bool kTransB, int kCount>
void wgmma_async(float (&d)[kCount], uint64_t a, uint64_t b, int scale_d) {
  static_assert(!kTransA);
  lanes::add_product({d, 2 * kCount, a, nullptr, b, scale_d != 0, kTransB});
}

template <bool kTransB, int kCount>
void wgmma_async(float (&d)[kCount], const uint32_t (&a)[4], uint64_t b, int scale_d) {
  lanes::add_product({d, 2 * kCount, 0, a, b, scale_d != 0, kTransB});
}

inline void wgmma_fence() {}
inline void wgmma_commit() { lanes::commit_products(); }
template <int kPending>
void wgmma_wait() {
  lanes::wait_for_products(kPending);
}

template <int kCount>
void pin_registers(float (&)[kCount]) {}
template <int kCount>
void pin_registers(uint32_t (&)[kCount]) {}

}  // namespace terrazzo::sm90
