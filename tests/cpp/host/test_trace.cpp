// The trace of a step: every instruction in every role, once, in time.
#include <map>

#include "check.hpp"
#include "host/session.hpp"

namespace terrazzo::testing {
namespace {

constexpr uint32_t kTracedRoles = kNumRoles - 1;  // all but the controller run instructions

/// Roles seen, by (GPU, queue position).
using Seen = std::map<std::pair<uint32_t, uint32_t>, uint32_t>;

void check_events(const std::vector<TraceEvent>& events, const LoweredStep& step) {
  Seen seen;
  for (const TraceEvent& event : events) {
    const ProgramView program = step.view(event.gpu);
    const QueuePlace place = place_of(program, event.position);
    CHECK(place.instruction->opcode == event.opcode);
    CHECK_EQ(place.layer, event.layer);
    CHECK(event.begin_ns <= event.end_ns);
    CHECK(event.waited_ns <= event.end_ns - event.begin_ns);
    const uint32_t role = 1U << static_cast<uint32_t>(event.role);
    uint32_t& roles = seen[{event.gpu, event.position}];
    CHECK((roles & role) == 0);
    roles |= role;
  }
  size_t instructions = 0;
  for (uint32_t gpu = 0; gpu < step.gpus.size(); ++gpu) {
    instructions += step.view(gpu).queue_size();
  }
  CHECK_EQ(seen.size(), instructions);
  CHECK_EQ(events.size(), instructions * kTracedRoles);
}

TERRAZZO_TEST(trace_has_every_instruction_in_every_role) {
  for (const uint64_t seed : {4U, 5U}) {  // of one GPU and of two
    const Session session = make_session(seed, false);
    const auto machine = session.machine(2);
    machine->set_trace(true);
    const LoweredStep first = session.next();
    machine->run(first);
    check_events(machine->events(), first);
    const LoweredStep second = session.next();
    machine->run_checked(second, {});
    check_events(machine->events(), second);
    machine->set_trace(false);
    machine->run(session.next());
    CHECK(machine->events().empty());
  }
}

}  // namespace
}  // namespace terrazzo::testing
