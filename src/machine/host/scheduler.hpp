// Runs the roles of some virtual SMs as fibers on one thread.
#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <vector>

#include "terrazzo/arch/host/machine.hpp"
#include "terrazzo/vm/params.hpp"

namespace terrazzo::host {

/// A virtual SM: its shared memory and its six roles.
struct Sm {
  SharedStorage shared;
  SharedShadow shadow;
  Role roles[kNumRoles];
};

/// Round robin over the roles that can go on; for speed. Ends when all roles are done or the launch
/// aborts.
void run_round_robin(std::span<Sm* const> sms, Launch& launch);

/// The adversary: a seeded choice among roles that can go on and copies that may land. When nothing
/// can happen any more it reports a deadlock at once.
void run_adversary(std::span<Sm* const> sms, Launch& launch, Checker& checker, CopyQueue& copies);

}  // namespace terrazzo::host
