// The threaded machine: four threads leave the same bits as one, for all degrees; under the thread
// sanitizer also without a data race.
#include "check.hpp"
#include "host/heap_image.hpp"
#include "host/session.hpp"

namespace terrazzo::testing {
namespace {

constexpr uint32_t kSessions = 16;  // four of each degree
constexpr uint32_t kSteps = 2;
constexpr uint32_t kThreads = 4;

TERRAZZO_TEST(threads_leave_the_same_bits) {
  for (const uint64_t seed : seeds_to_run(0, kSessions)) {
    const Session session = make_session(seed);
    const auto one = session.machine(1);
    const auto many = session.machine(kThreads);
    for (uint32_t index = 0; index < kSteps; ++index) {
      const LoweredStep step = session.next();
      one->run(step);
      many->run(step);
      const std::string difference = HeapImage(*one).difference(*many, step);
      if (!difference.empty()) {
        report_seed(__FILE__, __LINE__, seed, difference);
      }
    }
  }
}

}  // namespace
}  // namespace terrazzo::testing
