// Runs a body in blocks of a consumer's threads, on lanes: what tests/gpu/launch_block.hpp does
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

struct BlockIndex {
  uint32_t x;
  uint32_t y;
};

/// Calls `body(memory, index)` in each thread of `columns` x `rows` blocks, one after the other,
/// with a `Body::Memory` in shared memory.
template <class Body>
void launch_blocks(uint32_t columns, uint32_t rows, const Body& body) {
  static lanes::Block block(sm90::kConsumerThreads);
  static uint64_t seed = [] {
    const char* const text = std::getenv(lanes::kSeedVariable);
    return text == nullptr ? 1 : std::stoull(text);
  }();
  static_assert(sizeof(typename Body::Memory) <= lanes::kSharedBytes);
  auto& memory = *reinterpret_cast<typename Body::Memory*>(block.shared);
  for (uint32_t i = 0; i < columns * rows; ++i) {
    block.body = [&](uint32_t) {
      if constexpr (requires { body(memory, BlockIndex{}); }) {
        body(memory, BlockIndex{i % columns, i / columns});
      } else {
        body(memory);
      }
    };
    lanes::Launch launch({&block}, seed++);
    launch.run();
    lanes::require(launch.is_drained(), "work in flight at the kernel's end");
  }
}

/// The same for a single block, `body(memory)`.
template <class Body>
void launch_block(const Body& body) {
  launch_blocks(1, 1, body);
}

}  // namespace terrazzo::testing
