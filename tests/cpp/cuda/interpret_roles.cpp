// The megakernel's stand-in by roles: the host machine's interpreter.
#include <algorithm>
#include <memory>
#include <vector>

#include "cuda/interpret.hpp"
#include "machine/host/scheduler.hpp"
#include "terrazzo/instructions/set.hpp"
#include "terrazzo/tile/host/machine.hpp"
#include "terrazzo/vm/interpreter.hpp"

namespace terrazzo {
namespace {

constexpr uint32_t kMostSms = 2;

struct RoleStart {
  host::Role* role;
  const StepParams* params;
};

void role_entry(void* argument) {
  const auto& [role, params] = *static_cast<const RoleStart*>(argument);
  using host::TileMachine;
  try {
    switch (role->kind()) {
      case RoleKind::kController:
        return run_controller<TileMachine>(*role, *params);
      case RoleKind::kLoader:
        return run_loader<TileMachine, LlamaInstructions>(*role, *params);
      case RoleKind::kConsumer0:
      case RoleKind::kConsumer1:
        return run_consumer<TileMachine, LlamaInstructions>(
            *role, *params, role->kind() == RoleKind::kConsumer0 ? 0 : 1);
      case RoleKind::kStorer0:
      case RoleKind::kStorer1:
        return run_storer<TileMachine, LlamaInstructions>(
            *role, *params, role->kind() == RoleKind::kStorer0 ? 0 : 1);
    }
  } catch (const host::AbortLaunch&) {
    // Another role failed; this one only had to leave.
  } catch (const std::exception& error) {
    role->launch().fail(host::FailureKind::kCheck, error.what());
  }
}

void keep_events(const std::vector<TraceEvent>& events, const sm90::TraceBuffer& buffer) {
  std::copy_n(events.begin(), std::min<size_t>(events.size(), buffer.capacity), buffer.events);
  *buffer.count = static_cast<uint32_t>(events.size());
}

}  // namespace

namespace testing {

bool interpret(const Step& step, uint32_t num_launched) {
  if (step[0].step.watchdog_ns < kShortestWaitNs) {
    return false;
  }
  const uint32_t num_sms = std::min(num_launched, kMostSms);
  host::Launch launch(step[0].step.watchdog_ns);
  std::vector<std::vector<TraceEvent>> events(step.size());
  std::vector<std::unique_ptr<host::Sm>> sms;
  std::vector<host::Sm*> pointers;
  std::vector<RoleStart> starts;
  starts.reserve(step.size() * num_sms * kNumRoles);
  for (uint32_t i = 0; i < step.size() * num_sms; ++i) {
    const uint32_t rank = i / num_sms;
    const StepParams& params = step[rank].step;
    sms.push_back(std::make_unique<host::Sm>());
    host::Sm& sm = *sms.back();
    sm.shared.init();
    for (uint32_t kind = 0; kind < kNumRoles; ++kind) {
      host::Role& role = sm.roles[kind];
      role.bind(&launch, params.gpu, i % num_sms, static_cast<RoleKind>(kind), &sm.shared, nullptr,
                &sm.shadow, nullptr, i * kNumRoles + kind);
      role.set_trace(params.trace != 0 ? &events[rank] : nullptr);
      starts.push_back({&role, &params});
      role.fiber.start(role_entry, &starts.back());
    }
    pointers.push_back(&sm);
  }
  host::run_round_robin(pointers, launch);
  for (uint32_t rank = 0; rank < step.size(); ++rank) {
    if (step[rank].step.trace != 0) {
      keep_events(events[rank], step[rank].view.trace);
    }
  }
  return launch.kind() == host::FailureKind::kNone;
}

}  // namespace testing
}  // namespace terrazzo
