// The CUDA machine's kernels on the fake runtime: the host's interpreter runs a launch's
// parameters, program and memory as the kernel would.
#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "cuda/fake_runtime.hpp"
#include "machine/cuda/megakernel.hpp"
#include "machine/cuda/pack_kernel.hpp"
#include "machine/host/scheduler.hpp"
#include "terrazzo/instructions/set.hpp"
#include "terrazzo/tile/host/machine.hpp"
#include "terrazzo/vm/interpreter.hpp"

namespace terrazzo {
namespace {

constexpr uint32_t kVirtualSms = 2;
constexpr uint64_t kShortestWaitNs = 1000;  // a watchdog below it ends any launch

std::atomic<bool> fails_next{false};
std::atomic<uint32_t> num_aborted{0};

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

/// False if the launch did not come to its end.
bool interpret(const StepParams& params, const sm90::TraceBuffer& trace, uint32_t num_sms) {
  host::Launch launch(params.watchdog_ns);
  std::vector<TraceEvent> events;
  std::vector<std::unique_ptr<host::Sm>> sms;
  std::vector<host::Sm*> pointers;
  std::vector<RoleStart> starts;
  starts.reserve(num_sms * kNumRoles);
  for (uint32_t i = 0; i < num_sms; ++i) {
    sms.push_back(std::make_unique<host::Sm>());
    host::Sm& sm = *sms.back();
    sm.shared.init();
    for (uint32_t kind = 0; kind < kNumRoles; ++kind) {
      host::Role& role = sm.roles[kind];
      role.bind(&launch, 0, i, static_cast<RoleKind>(kind), &sm.shared, nullptr, &sm.shadow,
                nullptr, i * kNumRoles + kind);
      role.set_trace(params.trace != 0 ? &events : nullptr);
      starts.push_back({&role, &params});
      role.fiber.start(role_entry, &starts.back());
    }
    pointers.push_back(&sm);
  }
  host::run_round_robin(pointers, launch);
  if (params.trace != 0) {
    keep_events(events, trace);
  }
  return launch.kind() == host::FailureKind::kNone;
}

void run_launch(const StepParams& params, const sm90::LaunchView& view, uint32_t blocks) {
  if (*view.abort_flag != 0) {
    ++num_aborted;
    return;
  }
  const bool fails = fails_next.exchange(false) || params.watchdog_ns < kShortestWaitNs;
  if (!fails && interpret(params, view.trace, std::min(blocks, kVirtualSms))) {
    return;
  }
  *view.report = {.raised = 1,
                  .gpu = 0,
                  .sm = 1,
                  .role = static_cast<uint32_t>(RoleKind::kLoader),
                  .position = 0,
                  .layer = -1,
                  .opcode = static_cast<uint32_t>(Opcode::kEmbed),
                  .wait_kind = static_cast<uint32_t>(WaitKind::kCounter),
                  .index = BankLayout::kBlocks,
                  .seen = 0,
                  .wanted = 4};
  *view.abort_flag = 1;
}

}  // namespace

namespace testing {

void fail_next_launch() { fails_next = true; }
uint32_t aborted_launches() { return num_aborted; }

}  // namespace testing

namespace cuda {

template <uint32_t kHeadPanels>
void Megakernel<kHeadPanels>::prepare() {}

template <uint32_t kHeadPanels>
void Megakernel<kHeadPanels>::launch(const StepParams& params, const sm90::LaunchView& launch,
                                     uint32_t blocks, cudaStream_t stream) {
  testing::enqueue_on(stream, [=] { run_launch(params, launch, blocks); });
}

template struct Megakernel<1>;
template struct Megakernel<2>;

void launch_pack(const RowBlock& block, cudaStream_t stream) {
  testing::enqueue_on(stream, [=] {
    for (uint32_t row = 0; row < block.rows; ++row) {
      for (uint32_t chunk = 0; chunk < block.chunks_per_row(); ++chunk) {
        pack_chunk(block, row, chunk);
      }
    }
  });
}

}  // namespace cuda
}  // namespace terrazzo
