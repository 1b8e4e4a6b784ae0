// The verifier's short cuts (order by counters, shadow cells) against the definitions: reachability
// in the graph of instructions, and all pairs of accesses.
#include "lower/happens_before.hpp"

#include <string>
#include <vector>

#include "check.hpp"
#include "lower/accesses.hpp"
#include "lower/mutate.hpp"
#include "lower/steps.hpp"
#include "lower/verifier.hpp"

namespace terrazzo {
namespace {

using testing::TestCase;

class Reachability {
 public:
  Reachability(const LoweredStep& step, const HappensBefore& order)
      : reach_(order.nodes().size(), std::vector<bool>(order.nodes().size())) {
    const auto& nodes = order.nodes();
    // In reverse topological order: a node reaches its successors and all that they reach.
    for (auto first = order.order().rbegin(); first != order.order().rend(); ++first) {
      for (uint32_t second = 0; second < nodes.size(); ++second) {
        if (!reach_[*first][second] && signals(step, nodes[*first], nodes[second])) {
          reach_[*first][second] = true;
          for (uint32_t i = 0; i < nodes.size(); ++i) {
            reach_[*first][i] = reach_[*first][i] || reach_[second][i];
          }
        }
      }
    }
  }

  bool before(uint32_t first, uint32_t second) const { return reach_[first][second]; }

 private:
  static bool signals(const LoweredStep& step, const HappensBefore::Node& from,
                      const HappensBefore::Node& to) {
    const auto at = [&](const HappensBefore::Node& node, int32_t relative) {
      return counter_index(step.counters_per_block(), node.place.layer, relative);
    };
    for (const Signal& signal : from.place.instruction->signals) {
      for (const Wait& wait : to.place.instruction->waits) {
        for (int32_t i = 0; i < signal.count * wait.count; ++i) {
          if ((signal.gpus >> to.gpu & 1) != 0 &&
              at(from, signal.first + i % signal.count) == at(to, wait.first + i / signal.count)) {
            return true;
          }
        }
      }
    }
    return false;
  }

  std::vector<std::vector<bool>> reach_;  // [from][to]
};

/// A few decode rows and a short prompt, so that all pairs can be tried.
TestCase small_case(uint64_t seed, uint32_t world) {
  testing::Random random(seed);
  TestCase test = testing::random_case(seed, world);
  test.shape.num_layers = 2;
  test.shape.hidden = 64 * static_cast<uint32_t>(random.range(1, 3));
  test.shape.intermediate = 64 * world;
  test.shape.num_kv_heads = world;
  test.shape.num_heads = world * 2;
  test.shape.vocab = 500;
  test.arrays = {};
  const int32_t decodes = random.range(1, 4);
  for (int32_t i = 0; i < decodes; ++i) {
    test.arrays.add_sequence(1, random.range(0, 300));
    test.arrays.add_logit_row(i, 1.0F, random.pick({0, 3}), false);
  }
  test.arrays.add_sequence(random.range(2, 140), 30);
  test.arrays.assign_pages(testing::ascending_pages(test.limits.num_pages));
  test.arrays.token_ids[0] = -2;
  return test;
}

TERRAZZO_TEST(order_is_reachability) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const uint32_t world = seed % 2 == 0 ? 1 : 2;
    const LoweredStep step = testing::lower(small_case(seed, world));
    const HappensBefore order(step, step.num_layers, 1);
    CHECK(order.problems().empty());
    CHECK_EQ(order.order().size(), order.nodes().size());
    const Reachability reachability(step, order);
    for (uint32_t a = 0; a < order.nodes().size(); ++a) {
      for (uint32_t b = 0; b < order.nodes().size(); ++b) {
        if (order.before(a, b) != reachability.before(a, b)) {
          testing::report_failure(__FILE__, __LINE__, order.describe(a) + ", " + order.describe(b));
        }
      }
    }
  }
}

struct NodeAccess {
  uint32_t node;
  Access access;
};

/// Whether any two accesses conflict in no order.
bool any_race(const LoweredStep& step, const TestCase& test, const HappensBefore& order) {
  const StepTables tables = step.tables();
  std::vector<NodeAccess> accesses;
  for (uint32_t node = 0; node < order.nodes().size(); ++node) {
    const auto& [gpu, position, place] = order.nodes()[node];
    for_each_access(*place.instruction, gpu, place.layer, test.shape, test.limits, tables,
                    [&](const Access& access) { accesses.push_back({node, access}); });
  }
  const Reachability reachability(step, order);
  for (const auto& [a, x] : accesses) {
    for (const auto& [b, y] : accesses) {
      const bool conflict = x.mode == AccessMode::kWrite && x.gpu == y.gpu &&
                            x.buffer == y.buffer && x.begin < y.end && y.begin < x.end;
      if (a != b && conflict && !reachability.before(a, b) && !reachability.before(b, a)) {
        return true;
      }
    }
  }
  return false;
}

TERRAZZO_TEST(races_are_those_of_all_pairs) {
  uint32_t num_races = 0;
  uint32_t num_clean = 0;
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    const TestCase test = small_case(seed, seed % 2 == 0 ? 1 : 2);
    const auto mutation = mutate(testing::lower(test), seed);
    if (!mutation || (mutation->kind != MutationKind::kDropWait &&
                      mutation->kind != MutationKind::kMoveOutput)) {
      continue;
    }
    const auto problems = verify(mutation->step, test.shape, test.limits, {.max_problems = 1000});
    bool race = false;
    bool ordered = true;
    for (const Problem& problem : problems) {
      race = race || problem.kind == ProblemKind::kRace;
      ordered = ordered &&
                (problem.kind == ProblemKind::kRace || problem.kind == ProblemKind::kUnwritten);
    }
    if (!ordered) {
      continue;  // the verifier has stopped before it looks at accesses
    }
    const HappensBefore order(mutation->step, mutation->step.num_layers, 1);
    const bool expected = any_race(mutation->step, test, order);
    (expected ? num_races : num_clean) += 1;
    if (race != expected) {
      testing::report_failure(__FILE__, __LINE__,
                              mutation->description +
                                  ": races of all pairs: " + (expected ? "some" : "none") +
                                  ", verifier:\n" + to_string(problems));
    }
  }
  CHECK(num_races >= 300);
  CHECK(num_clean >= 20);
}

}  // namespace
}  // namespace terrazzo
