// Whatever the order in which roles run and copies land, a step leaves the same bits behind.
#include <cstdio>

#include "check.hpp"
#include "host/heap_image.hpp"
#include "host/session.hpp"
#include "lower/verifier.hpp"

namespace terrazzo::testing {
namespace {

constexpr uint32_t kSteps = 5;
constexpr uint32_t kInterleavings = 6;  // of a step
constexpr uint32_t kSessions = 34;
constexpr const char* kLatenessNames[] = {"random", "late", "eager"};

/// Of all sessions.
constexpr uint32_t kLeastInterleavings = 1000;
static_assert(kSessions * kSteps * kInterleavings >= kLeastInterleavings);

/// The step with the hint that lets SMs claim several instructions at once on all of them: that it
/// is only for brief ones is a matter of time, not of bits.
LoweredStep hinted(LoweredStep step) {
  for (GpuProgram& program : step.gpus) {
    for (auto& segment : program.segments) {
      for (Instruction& instruction : segment) {
        instruction.flags |= kBriefRun;
      }
    }
  }
  return step;
}

/// Runs `step` from the machine's state under each interleaving; the last one's state stays.
uint32_t run_interleavings(host::HostMachine& machine, const HeapImage& expected,
                           const LoweredStep& step, uint64_t seed, uint32_t index) {
  const HeapImage before(machine);
  const LoweredStep claimed_ahead = hinted(step);
  uint32_t runs = 0;
  for (uint32_t i = 0; i < kInterleavings; ++i) {
    before.restore(machine);
    const host::CheckOptions options{.seed = seed * 1000 + index * 100 + i,
                                     .lateness = static_cast<host::Lateness>(i % 3),
                                     .faults = {}};
    const std::string name = "session " + std::to_string(seed) + ", step " + std::to_string(index) +
                             ", interleaving " + std::to_string(options.seed) + ", copies land " +
                             kLatenessNames[i % 3];
    try {
      machine.run_checked(i % 2 == 0 ? step : claimed_ahead, options);
    } catch (const host::LaunchError& error) {
      report_seed(__FILE__, __LINE__, seed, name + ": " + error.what());
      return runs;
    }
    const std::string difference = expected.difference(machine, step);
    if (!difference.empty()) {
      report_seed(__FILE__, __LINE__, seed, name + ": " + difference);
    }
    ++runs;
  }
  return runs;
}

TERRAZZO_TEST(every_interleaving_leaves_the_same_bits) {
  uint32_t runs = 0;
  for (const uint64_t seed : seeds_to_run(0, kSessions)) {
    const Session session = make_session(seed);
    const auto threaded = session.machine(2);
    const auto checked = session.machine();
    for (uint32_t index = 0; index < kSteps; ++index) {
      const LoweredStep step = session.next();
      const std::vector<Problem> problems = verify(step, session.shape, session.limits);
      if (!problems.empty()) {
        report_seed(__FILE__, __LINE__, seed, "the verifier says: " + to_string(problems));
        break;
      }
      threaded->run(step);
      runs += run_interleavings(*checked, HeapImage(*threaded), step, seed, index);
    }
  }
  std::printf("%u interleavings\n", runs);
  CHECK(!runs_all_seeds() || runs >= kLeastInterleavings);
}

}  // namespace
}  // namespace terrazzo::testing
