// Waiting for several slots at once.
#pragma once

#include <cstdint>

#include "terrazzo/core/roles.hpp"
#include "terrazzo/vm/ring.hpp"

namespace terrazzo {

/// Waits until all slots of a run, which follow each other in the ring, have come to their phase:
/// first one look at each of them, since looks can run side by side; then one by one, in a loop, so
/// that what is seldom needed is short. `flip` 1: the phase before, as loaders wait.
template <uint32_t kCount, class Role, class Barriers>
TERRAZZO_GROUP_FN void wait_for_run(Role& role, Barriers& barriers, const SlotUse (&uses)[kCount],
                                    uint32_t flip, WaitKind kind) {
  bool ready = true;
  TERRAZZO_UNROLL
  for (const SlotUse& use : uses) {
    ready &= role.is_complete(barriers[use.slot], use.phase ^ flip);
  }
  if (!ready) [[unlikely]] {
    uint32_t phases = 0;
    TERRAZZO_UNROLL
    for (uint32_t i = 0; i < kCount; ++i) {
      phases |= (uses[i].phase ^ flip) << i;
    }
    uint32_t slot = uses[0].slot;
    TERRAZZO_NO_UNROLL
    for (uint32_t i = 0; i < kCount; ++i) {
      role.wait(barriers[slot], phases >> i & 1u, kind, slot);
      slot = slot + 1 == kNumSlots ? 0 : slot + 1;
    }
  }
}

}  // namespace terrazzo
