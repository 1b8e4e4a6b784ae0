// A program that cannot come to its end is reported within the watchdog's limit, and the machine
// goes on afterwards as if nothing had been.
#include <chrono>

#include "check.hpp"
#include "host/heap_image.hpp"
#include "host/session.hpp"

namespace terrazzo::testing {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kWatchdogNs = 400'000'000;
// More than the limit: the test machine may be busy.
constexpr std::chrono::seconds kMostSeconds{20};

struct Dropped {
  uint32_t gpu;      // whose counter is left short
  int32_t relative;  // of its block
  uint32_t amount;
};

/// Takes a signal of such an instruction away.
Dropped drop_signal(LoweredStep& step, Opcode opcode) {
  for (GpuProgram& program : step.gpus) {
    for (auto& segment : program.segments) {
      for (Instruction& instruction : segment) {
        Signal& signal = instruction.signals[0];
        if (instruction.opcode == opcode && signal.count > 0) {
          uint32_t gpu = 0;
          while ((signal.gpus >> gpu & 1) == 0) {
            ++gpu;
          }
          const Dropped dropped{gpu, signal.first, kNumConsumers * signal.increment};
          signal = {};
          return dropped;
        }
      }
    }
  }
  throw Error(std::string("the step has no ") + opcode_name(opcode));
}

/// A request for which placeholders are replaced by what the last step sampled, as an engine does
/// that starts a failed step again.
StepArrays with_known_tokens(StepArrays arrays, const host::HostMachine& machine) {
  for (int32_t& token : arrays.token_ids) {
    token = token >= 0 ? token : machine.sampled()[-token - 1].token;
  }
  return arrays;
}

/// The counter that was left short is among those that roles wait for, with the amount that is
/// missing.
void check_report(const host::LaunchError& error, const LoweredStep& step, const Dropped& dropped,
                  uint64_t seed) {
  const auto per_block = static_cast<int32_t>(step.counters_per_block());
  bool found = false;
  for (const host::BlockedRole& role : error.blocked) {
    const int32_t index = static_cast<int32_t>(role.wait.index - BankLayout::kBlocks);
    found |= role.wait.kind == WaitKind::kCounter && role.gpu == dropped.gpu &&
             index % per_block == dropped.relative && role.has_instruction &&
             role.wait.seen + dropped.amount == role.wait.wanted;
  }
  const std::string text = error.what();
  const std::string counter = step.counters.name(static_cast<uint32_t>(dropped.relative));
  for (const std::string& part : {std::string("loader in "), "waits for a counter, " + counter,
                                  std::string(": seen "), std::string(", wanted ")}) {
    found &= text.find(part) != std::string::npos;
  }
  if (!found) {
    report_seed(__FILE__, __LINE__, seed, "expected a wait for " + counter + ", got " + text);
  }
}

constexpr Opcode kVictims[] = {Opcode::kEmbed, Opcode::kQkvRopeAppend, Opcode::kOProjResidual,
                               Opcode::kGateUpSilu, Opcode::kLmHead};

TERRAZZO_TEST(a_dropped_signal_ends_in_a_report_and_the_machine_goes_on) {
  for (const uint64_t seed : seeds_to_run(300, 5)) {
    const Session session = make_session(seed);
    const auto expected = session.machine();
    host::HostMachine machine(session.shape, session.limits,
                              {.num_sms = session.num_sms,
                               .num_threads = 1,  // one that is idle knows that all are
                               .watchdog_ns = kWatchdogNs});
    session.model->attach(machine);
    for (uint32_t index = 0; index < 3; ++index) {
      const StepArrays arrays = with_known_tokens(session.traffic->next(), *expected);
      const LoweredStep step =
          lower(arrays.request(), session.shape, session.limits, session.options);
      if (index == 1) {
        LoweredStep broken = step;
        const Opcode choice = kVictims[seed % std::size(kVictims)];
        const Opcode victim = session.shape.o_sharded && choice == Opcode::kOProjResidual
                                  ? Opcode::kOPartial
                                  : choice;
        const Dropped dropped = drop_signal(broken, victim);
        const auto begin = Clock::now();
        try {
          machine.run(broken);
          report_seed(__FILE__, __LINE__, seed, "the step came to its end");
        } catch (const host::LaunchError& error) {
          const auto took = Clock::now() - begin;
          CHECK_EQ(error.kind, host::FailureKind::kWatchdog);
          CHECK(took >= std::chrono::nanoseconds(kWatchdogNs) && took < kMostSeconds);
          check_report(error, broken, dropped, seed);
        }
      }
      machine.run(step);
      expected->run(step);
      const std::string difference = HeapImage(*expected).difference(machine, step);
      if (!difference.empty()) {
        report_seed(__FILE__, __LINE__, seed, "step " + std::to_string(index) + ": " + difference);
      }
    }
  }
}

TERRAZZO_TEST(a_step_after_a_failed_check_has_the_right_bits) {
  for (const uint64_t seed : seeds_to_run(320, 4)) {
    const Session session = make_session(seed);
    const auto expected = session.machine();
    const auto machine = session.machine();
    for (uint32_t index = 0; index < 4; ++index) {
      const StepArrays arrays = with_known_tokens(session.traffic->next(), *expected);
      const LoweredStep step =
          lower(arrays.request(), session.shape, session.limits, session.options);
      host::CheckOptions options{.seed = seed, .lateness = host::Lateness::kRandom, .faults = {}};
      options.faults.no_acquire = true;
      CHECK_THROWS(machine->run_checked(step, options), "[race]");
      options.faults = {};
      if (index % 2 == 0) {
        machine->run(step);
      } else {
        machine->run_checked(step, options);
      }
      expected->run(step);
      const std::string difference = HeapImage(*expected).difference(*machine, step);
      if (!difference.empty()) {
        report_seed(__FILE__, __LINE__, seed, "step " + std::to_string(index) + ": " + difference);
      }
    }
  }
}

}  // namespace
}  // namespace terrazzo::testing
