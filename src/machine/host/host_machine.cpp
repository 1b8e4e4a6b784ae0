#include "machine/host/host_machine.hpp"

#include <algorithm>
#include <cstring>
#include <new>
#include <thread>
#include <utility>

#include "lower/lower.hpp"
#include "machine/host/diagnosis.hpp"
#include "terrazzo/instructions/set.hpp"
#include "terrazzo/tile/host/machine.hpp"
#include "terrazzo/vm/interpreter.hpp"

namespace terrazzo::host {
namespace {

/// Runs one role to the end of the queue; failures end the launch.
void role_main(Role& role, const StepParams& params) {
  try {
    switch (role.kind()) {
      case RoleKind::kController:
        return run_controller<TileMachine>(role, params);
      case RoleKind::kLoader:
        return run_loader<TileMachine, LlamaInstructions>(role, params);
      case RoleKind::kConsumer0:
        return run_consumer<TileMachine, LlamaInstructions>(role, params, 0);
      case RoleKind::kConsumer1:
        return run_consumer<TileMachine, LlamaInstructions>(role, params, 1);
      case RoleKind::kStorer0:
        return run_storer<TileMachine, LlamaInstructions>(role, params, 0);
      case RoleKind::kStorer1:
        return run_storer<TileMachine, LlamaInstructions>(role, params, 1);
    }
  } catch (const AbortLaunch&) {
    // Another role failed; this one only had to leave.
  } catch (const std::exception& error) {
    role.launch().fail(FailureKind::kCheck, error.what());
  }
}

struct RoleStart {
  Role* role;
  const StepParams* params;
};

void role_entry(void* argument) {
  const auto* const start = static_cast<const RoleStart*>(argument);
  role_main(*start->role, *start->params);
}

}  // namespace

void HostMachine::AlignedDelete::operator()(std::byte* pointer) const {
  ::operator delete[](pointer, std::align_val_t{kHeapAlignment});
}

HostMachine::HostMachine(const ModelShape& shape, const StepLimits& limits,
                         const HostOptions& options)
    : shape_(shape),
      limits_(limits),
      options_(options),
      layout_(heap_layout(shape, limits)),
      models_(shape.world) {
  check(options.num_sms > 0, "host machine", "num_sms must be at least 1");
  for (uint32_t gpu = 0; gpu < shape.world; ++gpu) {
    auto* const memory = static_cast<std::byte*>(
        ::operator new[](layout_.total_bytes, std::align_val_t{kHeapAlignment}));
    std::memset(memory, 0, layout_.total_bytes);
    heaps_.emplace_back(memory);
    for (uint32_t sm = 0; sm < options.num_sms; ++sm) {
      sms_.push_back(std::make_unique<Sm>());
    }
  }
}

HostMachine::~HostMachine() = default;

StepParams HostMachine::params_of(const LoweredStep& step, uint32_t gpu) const {
  StepParams params{
      .shape = shape_,
      .limits = limits_,
      .layout = layout_,
      .model = models_[gpu],
      .tables = step.tables(),
      .program = step.view(gpu),
      .heaps = {},
      .gpu = gpu,
      .bank = bank_,
      .bank_counters = layout_.size(Buffer::kCounters) / (2 * sizeof(uint32_t)),
      .watchdog_ns = options_.watchdog_ns,
      .trace = trace_ ? 1u : 0u,
  };
  for (uint32_t i = 0; i < shape_.world; ++i) {
    params.heaps[i] = heaps_[i].get();
  }
  return params;
}

void HostMachine::prepare(const LoweredStep& step, Launch& launch, Checker* checker,
                          CopyQueue* copies) {
  check(step.gpus.size() == shape_.world, "host machine", "the step was lowered for ",
        step.gpus.size(), " GPUs, the machine has ", shape_.world);
  bank_ ^= 1u;
  params_.clear();
  for (uint32_t gpu = 0; gpu < shape_.world; ++gpu) {
    params_.push_back(params_of(step, gpu));
    const StepParams& params = params_.back();
    check(BankLayout::size(step.counters_per_block(), step.num_layers) <= params.bank_counters,
          "host machine", "the step's counters do not fit the bank");
    std::memset(params.counters(gpu), 0, params.bank_counters * sizeof(uint32_t));
  }
  sm_events_.assign(sms_.size(), {});
  for (size_t i = 0; i < sms_.size(); ++i) {
    Sm& sm = *sms_[i];
    sm.shared.init();
    if (checker != nullptr) {
      sm.shadow = SharedShadow{};
    }
    for (uint32_t kind = 0; kind < kNumRoles; ++kind) {
      sm.roles[kind].bind(&launch, static_cast<uint32_t>(i) / options_.num_sms,
                          static_cast<uint32_t>(i) % options_.num_sms, static_cast<RoleKind>(kind),
                          &sm.shared, checker, &sm.shadow, copies,
                          static_cast<uint32_t>(i) * kNumRoles + kind);
      sm.roles[kind].set_trace(trace_ ? &sm_events_[i] : nullptr);
    }
  }
}

void HostMachine::finish(const LoweredStep& step, const Launch& launch) {
  events_.clear();
  for (const auto& events : sm_events_) {
    events_.insert(events_.end(), events.begin(), events.end());
  }
  if (launch.kind() != FailureKind::kNone) {
    throw LaunchError(launch.kind(), diagnosis(launch, step), launch.blocked());
  }
}

void HostMachine::run(const LoweredStep& step) {
  Launch launch(options_.watchdog_ns);
  ran_unchecked_ = true;
  prepare(step, launch, nullptr, nullptr);
  std::vector<RoleStart> starts;
  starts.reserve(sms_.size() * kNumRoles);
  for (const auto& sm : sms_) {
    for (Role& role : sm->roles) {
      starts.push_back({&role, &params_[role.gpu()]});
      role.fiber.start(role_entry, &starts.back());
    }
  }
  const size_t num_threads =
      std::min<size_t>(options_.num_threads == 0 ? sms_.size() : options_.num_threads, sms_.size());
  // SMs are dealt to threads in turn, so that every thread has some of every GPU's.
  std::vector<std::vector<Sm*>> shares(num_threads);
  for (size_t i = 0; i < sms_.size(); ++i) {
    shares[i % num_threads].push_back(sms_[i].get());
  }
  {
    std::vector<std::jthread> threads;
    for (size_t i = 1; i < num_threads; ++i) {
      threads.emplace_back([&, i] { run_round_robin(shares[i], launch); });
    }
    run_round_robin(shares[0], launch);
  }
  finish(step, launch);
}

void HostMachine::run_checked(const LoweredStep& step, const CheckOptions& options,
                              AccessObserver observer) {
  if (shadows_.empty()) {
    for (uint32_t gpu = 0; gpu < shape_.world; ++gpu) {
      shadows_.emplace_back(heaps_[gpu].get(), layout_);
    }
  }
  if (std::exchange(ran_unchecked_, false)) {
    for (HeapShadow& shadow : shadows_) {
      shadow.trust_persistent();
    }
  }
  Launch launch(options_.watchdog_ns);
  Checker checker(shadows_, options, ++checked_launches_,
                  static_cast<uint32_t>(sms_.size()) * kNumRoles);
  checker.observer = std::move(observer);
  checker.name_of = [&](const Accessor& by) {
    const Role& role = agent(by.agent);
    const QueuePlace place = place_of(step.view(role.gpu()), by.position);
    return role.describe(place.instruction->opcode, place.layer, by.position);
  };
  CopyQueue copies;
  prepare(step, launch, &checker, &copies);
  std::vector<RoleStart> starts;
  starts.reserve(sms_.size() * kNumRoles);
  std::vector<Sm*> all;
  for (const auto& sm : sms_) {
    all.push_back(sm.get());
    for (Role& role : sm->roles) {
      starts.push_back({&role, &params_[role.gpu()]});
      role.fiber.start(role_entry, &starts.back());
    }
  }
  run_adversary(all, launch, checker, copies);
  finish(step, launch);
}

const Role& HostMachine::agent(uint32_t agent) const {
  return sms_[agent / kNumRoles]->roles[agent % kNumRoles];
}

const SampledToken* HostMachine::sampled() const {
  return reinterpret_cast<const SampledToken*>(heaps_[0].get() + layout_.at(Buffer::kSampled));
}

const float* HostMachine::logits(uint32_t owner, uint32_t slot, uint32_t gpu) const {
  const uint64_t row = (uint64_t{slot} * shape_.world + gpu) * shape_.vocab_panels() * kPanelCols;
  return reinterpret_cast<const float*>(heaps_[owner].get() + layout_.at(Buffer::kLogits)) + row;
}

}  // namespace terrazzo::host
