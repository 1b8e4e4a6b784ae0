// Steps of the protocol left out on purpose: the checked machine must notice each of them, and say
// which role, instruction and slot or buffer it is about.
#include <regex>

#include "check.hpp"
#include "host/session.hpp"

namespace terrazzo::testing {
namespace {

using host::CheckOptions;
using host::Lateness;
using host::PlantedFaults;

struct Fault {
  const char* name;
  bool PlantedFaults::* member;
  bool seen_when_eager;       // with copies that land at once there is nothing to wait for
  const char* report;         // a pattern that every report matches
  bool in_every_step = true;  // else only where an instruction has more stages than one
};

/// Who did it: "gpu 1 sm 0 storer 1 in embed (layer -1, position 3)".
#define WHO(ROLE) "gpu \\d+ sm \\d+ " ROLE " in \\w+ \\(layer -?\\d+, position \\d+\\)"
/// A place in a heap: "gpu 1 x + 4096".
#define PLACE "gpu \\d+ \\w+ \\+ \\d+"

#define READ_TOO_EARLY \
  "race\\] " WHO("loader") " reads " PLACE ", not ordered after the write by " WHO("storer [01]")
#define WRITTEN_TOO_EARLY \
  "race\\] " WHO("storer [01]") " writes " PLACE ", not ordered after the read by " WHO("loader")
#define BYTE_NOT_THERE "poison\\] " WHO("consumer [01]") " reads byte \\d+ of slot \\d+"
/// A storer gives the last stage of an instruction back behind the wait for its stores.
#define STAGE_TOO_EARLY \
  "protocol\\] " WHO("consumer [01]") " writes stage [01] before all stores have read"

constexpr Fault kFaults[] = {
    {"no_proxy_fence", &PlantedFaults::no_proxy_fence, true,
     "\\[protocol\\] " WHO("storer [01]") " stores to " PLACE " bytes that their writer .* fence"},
    {"no_acquire", &PlantedFaults::no_acquire, true,
     "\\[race\\] " WHO("loader") " reads " PLACE
                                 ", not ordered after the write by " WHO("storer [01]")},
    {"no_load_fence", &PlantedFaults::no_load_fence, true,
     "\\[protocol\\] " WHO("loader") " loads .+ into slot \\d+ after an acquire without .* fence"},
    {"no_full_wait", &PlantedFaults::no_full_wait, true,
     "\\[(poison\\] " WHO(
         "consumer [01]") " reads slot \\d+ before its full barrier"
                          "|protocol\\] " WHO(
                              "consumer [01]") " arrives on the empty barrier of slot \\d+).*"},
    {"no_store_wait", &PlantedFaults::no_store_wait, false,
     "\\[(" READ_TOO_EARLY "|" WRITTEN_TOO_EARLY "|" BYTE_NOT_THERE "|" STAGE_TOO_EARLY ").*"},
    {"no_read_wait", &PlantedFaults::no_read_wait, false, "\\[" STAGE_TOO_EARLY, false},
    {"double_arrival", &PlantedFaults::double_arrival, true,
     "\\[protocol\\] " WHO("consumer [01]") " arrives on the empty barrier of slot \\d+, which .*"},
};

constexpr Lateness kLateness[] = {Lateness::kRandom, Lateness::kLate, Lateness::kEager};
constexpr uint32_t kSessions = 16;

/// Empty if the step comes to its end.
std::string report_of(host::HostMachine& machine, const LoweredStep& step,
                      const CheckOptions& options) {
  try {
    machine.run_checked(step, options);
  } catch (const host::LaunchError& error) {
    return error.what();
  }
  return {};
}

TERRAZZO_TEST(every_planted_fault_is_reported) {
  uint32_t num_rare = 0;
  for (const uint64_t seed : seeds_to_run(200, kSessions)) {
    const Session session = make_session(seed);
    const auto machine = session.machine();
    const LoweredStep step = session.next();
    for (const Fault& fault : kFaults) {
      for (const Lateness lateness : kLateness) {
        CheckOptions options{.seed = seed, .lateness = lateness, .faults = {}};
        options.faults.*fault.member = true;
        const std::string report = report_of(*machine, step, options);
        const bool silent = lateness == Lateness::kEager && !fault.seen_when_eager;
        num_rare += !fault.in_every_step && !report.empty() ? 1 : 0;
        if (!fault.in_every_step && report.empty()) {
          continue;
        }
        if (silent ? !report.empty()
                   : !std::regex_search(report, std::regex(std::string("^") + fault.report))) {
          report_seed(__FILE__, __LINE__, seed, std::string(fault.name) + ": '" + report + "'");
        }
      }
    }
  }
  CHECK(num_rare > 0 || seeds_to_run(200, kSessions).size() == 1);
}

TERRAZZO_TEST(the_same_seed_gives_the_same_report) {
  const Session session = make_session(204);
  const LoweredStep step = session.next();
  for (const Fault& fault : kFaults) {
    CheckOptions options{.seed = 5, .lateness = Lateness::kRandom, .faults = {}};
    options.faults.*fault.member = true;
    const std::string first = report_of(*session.machine(), step, options);
    CHECK(!first.empty());
    CHECK_EQ(report_of(*session.machine(), step, options), first);
  }
}

TERRAZZO_TEST(programs_without_faults_are_never_reported) {
  for (const uint64_t seed : seeds_to_run(200, kSessions)) {
    const Session session = make_session(seed);
    const auto machine = session.machine();
    for (uint32_t index = 0; index < 3; ++index) {
      const LoweredStep step = session.next();
      for (const Lateness lateness : kLateness) {
        const std::string report =
            report_of(*machine, step, {.seed = seed + index, .lateness = lateness, .faults = {}});
        if (!report.empty()) {
          report_seed(__FILE__, __LINE__, seed, report);
        }
      }
    }
  }
}

}  // namespace
}  // namespace terrazzo::testing
