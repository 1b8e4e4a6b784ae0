// Sessions of random steps, for a soak.
#pragma once

#include <memory>
#include <vector>

#include "host/traffic.hpp"
#include "soak_machine.hpp"

namespace terrazzo::testing {

/// How many sequences run at least, and their longest prompt.
struct Load {
  uint32_t sequences;
  int32_t longest_prompt;
};
inline constexpr Load kLoads[] = {{1, 6}, {5, 600}, {30, 200}, {132, 30}, {100, 6}};
inline constexpr Load kSmallLoads[] = {{1, 6}, {2, 150}, {20, 10}};

/// Consecutive steps that begin without a cache, and what each left when it ran first.
struct Session {
  size_t number;
  std::vector<StepArrays> steps;
  std::vector<Outcome> expected;
  int runs = 0;
};
using SessionPtr = std::shared_ptr<Session>;

inline SessionPtr new_session(size_t number, uint64_t seed, const ModelShape& shape,
                              const StepLimits& limits, const Load& load, size_t length) {
  auto session = std::make_shared<Session>();
  session->number = number;
  Traffic traffic(seed, shape, limits, load.sequences, load.longest_prompt);
  while (session->steps.size() < length) {
    session->steps.push_back(traffic.next());
  }
  return session;
}

inline Load random_load(Random& random, bool small) {
  return small ? random.pick({kSmallLoads[0], kSmallLoads[1], kSmallLoads[2]})
               : random.pick({kLoads[0], kLoads[1], kLoads[2], kLoads[3], kLoads[4]});
}

/// A step of many rows, sequences and logits: what memory is for.
inline StepArrays largest_step(const StepLimits& limits) {
  StepArrays arrays;
  const auto sequences = static_cast<int32_t>(limits.max_sequences);
  const auto page = static_cast<int32_t>(kPageTokens);
  int32_t left = static_cast<int32_t>(limits.max_rows) - sequences;
  for (int32_t i = 0; i < sequences; ++i) {
    const int32_t more = i % 2 == 0 ? 0 : std::min(left, page - 1);
    arrays.add_sequence(1 + more, i % 2 == 0 ? page + page / 2 : 0);
    arrays.add_logit_row(static_cast<int32_t>(arrays.token_ids.size()) - 1, 0.8F, 5, true);
    left -= more;
  }
  arrays.assign_pages(ascending_pages(limits.num_pages));
  return arrays;
}

}  // namespace terrazzo::testing
