// Waiting for several slots at once.
#pragma once

#include <cstdint>

#include "terrazzo/core/roles.hpp"
#include "terrazzo/vm/ring.hpp"

namespace terrazzo {

/// Waits until all slots of a run have come to their phase: first one look at each of them, since
/// looks can run side by side. `flip` 1: the phase before, as loaders wait.
template <uint32_t kCount, class Role, class Barriers>
TERRAZZO_GROUP_FN void wait_for_run(Role& role, Barriers& barriers, const SlotUse (&uses)[kCount],
                                    uint32_t flip, WaitKind kind) {
  bool ready = true;
  TERRAZZO_UNROLL
  for (const SlotUse& use : uses) {
    ready &= role.is_complete(barriers[use.slot], use.phase ^ flip);
  }
  if (!ready) {
    TERRAZZO_UNROLL
    for (const SlotUse& use : uses) {
      role.wait(barriers[use.slot], use.phase ^ flip, kind, use.slot);
    }
  }
}

}  // namespace terrazzo
