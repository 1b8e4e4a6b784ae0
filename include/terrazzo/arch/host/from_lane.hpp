// What a single lane of a role's group does on Hopper: here a role has no lanes.
#pragma once

#include <cstdint>

#include "terrazzo/arch/host/barrier.hpp"
#include "terrazzo/core/roles.hpp"

namespace terrazzo::host {

/// The names of a role's operations for a single lane, for `Self`, a role.
template <class Self>
class FromLane {
 public:
  void arrive_from_lane(Barrier& barrier, WaitKind kind, uint32_t index) {
    self().arrive(barrier, kind, index);
  }
  void arrive_expecting_from_lane(Barrier& barrier, uint32_t bytes, WaitKind kind, uint32_t index) {
    self().arrive_expecting(barrier, bytes, kind, index);
  }
  void acquire_from_lane(const uint32_t* first, uint32_t count, uint32_t target, WaitKind kind,
                         uint32_t index) {
    self().acquire(first, count, target, kind, index);
  }

 private:
  Self& self() { return static_cast<Self&>(*this); }
};

}  // namespace terrazzo::host
