// Runs a body in one block of a consumer's threads, on lanes: what tests/gpu/launch_block.hpp does
// on the GPU.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
#include <string>

// Stand-ins for PTX; before everything that uses them.
#include "terrazzo/arch/sm90/special.hpp"

#include "cuda/lanes/lanes.hpp"
#include "terrazzo/arch/sm90/machine.hpp"

using std::max;
using std::min;
inline long long clock64() {
  return static_cast<long long>(terrazzo::lanes::Launch::current().now_ns());
}

namespace terrazzo::testing {

inline constexpr bool kHasTensorCore = false;  // products are rounded double sums

/// Calls `body(memory)` in each thread, with a `Body::Memory` in shared memory, and waits.
template <class Body>
void launch_block(const Body& body) {
  static lanes::Block block(sm90::kConsumerThreads);
  static uint64_t seed = [] {
    const char* const text = std::getenv(lanes::kSeedVariable);
    return text == nullptr ? 1 : std::stoull(text);
  }();
  static_assert(sizeof(typename Body::Memory) <= lanes::kSharedBytes);
  block.body = [&](uint32_t) { body(*reinterpret_cast<typename Body::Memory*>(block.shared)); };
  lanes::Launch launch({&block}, seed++);
  launch.run();
  lanes::require(launch.is_drained(), "work in flight at the kernel's end");
}

}  // namespace terrazzo::testing
