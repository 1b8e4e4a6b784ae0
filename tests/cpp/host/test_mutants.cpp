// Harmful changes to programs. The verifier rejects them; one that it accepts must be harmless on
// the machine. And what the verifier rejects is no false alarm: the machine, which knows nothing of
// the verifier, reports most of these too.
#include <cstdio>
#include <map>

#include "check.hpp"
#include "host/heap_image.hpp"
#include "host/session.hpp"
#include "lower/mutate.hpp"
#include "lower/verifier.hpp"

namespace terrazzo::testing {
namespace {

using host::BlockedRole;
using host::FailureKind;
using host::Lateness;

constexpr uint32_t kSteps = 40;
constexpr uint32_t kMutantsPerStep = 14;
constexpr uint32_t kLeastRejected = 500;
constexpr uint32_t kSeedsPerAccepted = 1000;

/// A step, and the state of a machine before and after it.
struct Scene {
  explicit Scene(uint64_t seed)
      : session(make_session(seed, false)),
        machine(session.machine()),
        first(session.next()),
        step((machine->run_checked(first, {}), session.next())),
        before(*machine),
        after((machine->run_checked(step, {}), *machine)) {}

  Session session;
  std::unique_ptr<host::HostMachine> machine;
  LoweredStep first;
  LoweredStep step;
  HeapImage before;
  HeapImage after;

  bool accepted(const LoweredStep& mutant) const {
    VerifyOptions options;
    options.sampled_rows = static_cast<uint32_t>(first.logit_rows.size());
    return verify(mutant, session.shape, session.limits, options).empty();
  }
};

/// Calls f(scene, mutation, seed of the mutation) for all mutants.
template <class F>
void for_each_mutant(F f) {
  for (const uint64_t seed : seeds_to_run(400, kSteps)) {
    const Scene scene(seed);
    CHECK(scene.accepted(scene.step));
    for (uint64_t i = 0; i < kMutantsPerStep; ++i) {
      if (const auto mutation = mutate(scene.step, seed * 1000 + i)) {
        f(scene, *mutation, seed);
      }
    }
  }
}

/// Without a report and with the same bits: empty. Else what went wrong.
std::string harm_of(const Scene& scene, const LoweredStep& mutant,
                    const host::CheckOptions& options) {
  scene.before.restore(*scene.machine);
  try {
    scene.machine->run_checked(mutant, options);
  } catch (const host::LaunchError& error) {
    return error.what();
  }
  return scene.after.difference(*scene.machine, mutant);
}

TERRAZZO_TEST(mutants_that_the_verifier_accepts_are_harmless) {
  uint32_t rejected = 0;
  uint32_t accepted = 0;
  for_each_mutant([&](const Scene& scene, const Mutation& mutation, uint64_t seed) {
    if (!scene.accepted(mutation.step)) {
      ++rejected;
      return;
    }
    ++accepted;
    // Only what others imply may be dropped: see the comment of `verify`.
    CHECK_EQ(mutation.kind, MutationKind::kDropWait);
    std::printf("accepted, since other waits imply this one: session %llu, %s\n",
                static_cast<unsigned long long>(seed), mutation.description.c_str());
    for (uint64_t i = 0; i < kSeedsPerAccepted; ++i) {
      const std::string harm =
          harm_of(scene, mutation.step, {.seed = i, .lateness = Lateness::kLate, .faults = {}});
      if (!harm.empty()) {
        report_seed(__FILE__, __LINE__, seed,
                    mutation.description + ", interleaving " + std::to_string(i) + ": " + harm);
        return;
      }
    }
  });
  std::printf("%u mutants rejected, %u accepted\n", rejected, accepted);
  CHECK(!runs_all_seeds() || rejected >= kLeastRejected);
}

/// The wait graph of a deadlock: every role that waits for a counter says which, seen and wanted.
void check_wait_graph(const host::LaunchError& error, const LoweredStep& step,
                      const std::string& description) {
  const std::string text = error.what();
  uint32_t counters = 0;
  for (const BlockedRole& role : error.blocked) {
    if (role.wait.kind == WaitKind::kCounter) {
      ++counters;
      const uint32_t relative = (role.wait.index - BankLayout::kBlocks) % step.counters_per_block();
      const std::string line = "gpu " + std::to_string(role.gpu) + " sm " +
                               std::to_string(role.sm) + " loader in " +
                               opcode_name(role.instruction.opcode);
      const std::string wait = "waits for a counter, " + step.counters.name(relative) + " of ";
      const std::string values = ": seen " + std::to_string(role.wait.seen) + ", wanted " +
                                 std::to_string(role.wait.wanted);
      CHECK_EQ(role.role, RoleKind::kLoader);
      CHECK(role.wait.seen < role.wait.wanted);
      for (const std::string& part : {line, wait, values}) {
        if (text.find(part) == std::string::npos) {
          report_failure(__FILE__, __LINE__, description + ": no '" + part + "' in " + text);
        }
      }
    }
  }
  const bool ends = text.find("the end of the step: seen") != std::string::npos;
  if (counters == 0 && !ends) {
    report_failure(__FILE__, __LINE__, description + ": nobody waits for a counter in " + text);
  }
  const bool signallers = text.find("; signalled by gpu ") != std::string::npos ||
                          text.find("; no instruction signals it") != std::string::npos;
  CHECK(counters == 0 || signallers);
}

struct Tally {
  uint32_t deadlock = 0;
  uint32_t check = 0;
  uint32_t other_bits = 0;
  uint32_t nothing = 0;

  uint32_t noticed() const { return deadlock + check + other_bits; }
};

TERRAZZO_TEST(the_machine_notices_most_of_what_the_verifier_rejects) {
  constexpr uint32_t kSeedsPerRejected = 4;
  std::map<MutationKind, Tally> tallies;
  for_each_mutant([&](const Scene& scene, const Mutation& mutation, uint64_t seed) {
    // Moved outputs with operands out of range are no programs at all.
    if (mutation.kind == MutationKind::kMoveOutput || scene.accepted(mutation.step)) {
      return;
    }
    Tally& tally = tallies[mutation.kind];
    for (uint64_t i = 0; i < kSeedsPerRejected; ++i) {
      scene.before.restore(*scene.machine);
      try {
        scene.machine->run_checked(
            mutation.step, {.seed = i, .lateness = static_cast<Lateness>(i % 2), .faults = {}});
      } catch (const host::LaunchError& error) {
        if (error.kind == FailureKind::kDeadlock) {
          check_wait_graph(error, mutation.step, mutation.description);
        }
        ++(error.kind == FailureKind::kDeadlock ? tally.deadlock : tally.check);
        return;
      }
      const std::string difference = scene.after.difference(*scene.machine, mutation.step);
      if (!difference.empty()) {
        std::printf("other bits, but no report: session %llu, %s, interleaving %llu: %s\n",
                    static_cast<unsigned long long>(seed), mutation.description.c_str(),
                    static_cast<unsigned long long>(i), difference.c_str());
        ++tally.other_bits;
        return;
      }
    }
    ++tally.nothing;
  });
  Tally total;
  for (const auto& [kind, tally] : tallies) {
    std::printf("%-13s %3u deadlocks, %3u races or poison, %3u other bits, %3u unnoticed\n",
                kMutationNames[static_cast<uint32_t>(kind)], tally.deadlock, tally.check,
                tally.other_bits, tally.nothing);
    total.deadlock += tally.deadlock;
    total.check += tally.check;
    total.other_bits += tally.other_bits;
    total.nothing += tally.nothing;
  }
  // A signal that never comes is always seen; what races only sometimes is seen in most cases.
  CHECK_EQ(tallies[MutationKind::kDropSignal].nothing, 0U);
  CHECK_EQ(total.other_bits, 0U);
  CHECK(!runs_all_seeds() || total.noticed() > total.nothing);
}

}  // namespace
}  // namespace terrazzo::testing
