// What a block of the megakernel does: four service warps and two consumer warpgroups take their
// roles.
#pragma once

#include "machine/cuda/megakernel.hpp"
#include "terrazzo/instructions/set.hpp"
#include "terrazzo/tile/sm90/machine.hpp"
#include "terrazzo/vm/interpreter.hpp"

namespace terrazzo::cuda {

// A block has what it was launched with: asking for more waits for ever.
constexpr int kLaunchRegisters = 168;  // of a thread: 64K / 384, in units of 8
constexpr int kServiceRegisters = 88;
constexpr int kConsumerRegisters = 208;
static_assert(128 * kServiceRegisters + 256 * kConsumerRegisters <=
              kBlockThreads * kLaunchRegisters);

/// One thread of the block that is SM `sm` of its rank.
template <uint32_t kHeadPanels>
__device__ __forceinline__ void run_thread(sm90::SharedStorage& shared, const RankParams& rank,
                                           uint32_t sm, uint32_t thread) {
  using Machine = sm90::TileMachine<kHeadPanels>;
  const StepParams& params = rank.step;
  const sm90::LaunchView& launch = rank.view;
  if (thread == 0) {
    shared.init();
  }
  __syncthreads();
  const uint32_t warp = thread / sm90::kWarpThreads;
  const uint32_t lane = thread % sm90::kWarpThreads;
  const auto role_of = [&](RoleKind kind) { return sm90::Role(shared, launch, kind, sm, lane); };
  if (warp < 4) {
    sm90::setmaxnreg_dec<kServiceRegisters>();
    if (warp == 0) {
      auto role = role_of(RoleKind::kController);
      run_controller<Machine>(role, params);
    } else if (warp == 1) {
      auto role = role_of(RoleKind::kLoader);
      run_loader<Machine, LlamaInstructions>(role, params);
      role.drain();
    } else {
      const uint32_t index = warp - 2;
      auto role = role_of(index == 0 ? RoleKind::kStorer0 : RoleKind::kStorer1);
      run_storer<Machine, LlamaInstructions>(role, params, index);
    }
  } else {
    sm90::setmaxnreg_inc<kConsumerRegisters>();
    const uint32_t index = warp / 4 - 1;
    auto role = role_of(index == 0 ? RoleKind::kConsumer0 : RoleKind::kConsumer1);
    run_consumer<Machine, LlamaInstructions>(role, params, index);
  }
}

}  // namespace terrazzo::cuda
