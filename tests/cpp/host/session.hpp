// A random model, limits and traffic from one seed; and which seeds a test runs.
#pragma once

#include <cstdlib>
#include <memory>
#include <vector>

#include "check.hpp"
#include "host/model.hpp"
#include "host/traffic.hpp"

namespace terrazzo::testing {

#if defined(__SANITIZE_ADDRESS__)
inline constexpr uint64_t kSeedsShare = 8;  // a slow build runs this part of the seeds
#else
inline constexpr uint64_t kSeedsShare = 1;
#endif

inline const char* only_seed() { return std::getenv("TERRAZZO_TEST_SEED"); }

/// Whether a test runs all of its seeds, so that what it saw can be counted.
inline bool runs_all_seeds() { return kSeedsShare == 1 && only_seed() == nullptr; }

/// Seeds [first, first + count), or the one that the environment asks for.
inline std::vector<uint64_t> seeds_to_run(uint64_t first, uint64_t count) {
  if (const char* const only = only_seed()) {
    return {std::strtoull(only, nullptr, 10)};
  }
  std::vector<uint64_t> seeds(ceil_div(count, kSeedsShare));
  std::iota(seeds.begin(), seeds.end(), first);
  return seeds;
}

/// Reports a failure of `seed` and how to see it again.
inline void report_seed(const char* file, int line, uint64_t seed, const std::string& what) {
  report_failure(file, line,
                 what + "\n  again: TERRAZZO_TEST_SEED=" + std::to_string(seed) +
                     " and the name of the test as argument");
}

/// Everything random about a run of consecutive steps, but for the interleavings.
struct Session {
  ModelShape shape;
  StepLimits limits;
  LowerOptions options;
  uint32_t num_sms;
  std::unique_ptr<TestModel> model;
  std::unique_ptr<Traffic> traffic;

  std::unique_ptr<host::HostMachine> machine(uint32_t threads = 1) const {
    auto out = std::make_unique<host::HostMachine>(
        shape, limits, host::HostOptions{.num_sms = num_sms, .num_threads = threads});
    model->attach(*out);
    return out;
  }

  LoweredStep next() const { return lower(traffic->next().request(), shape, limits, options); }
};

inline constexpr uint32_t kWorlds[] = {1, 2, 4, 8};

/// The degree goes round with the seed. One session in 4 decodes so many sequences that there are
/// several row blocks and compact blocks.
inline Session make_session(uint64_t seed, bool crowds = true) {
  Random random(seed);
  const uint32_t world = kWorlds[seed % std::size(kWorlds)];
  const bool crowd = crowds && seed / std::size(kWorlds) % 4 == 3;
  ModelShape shape = tiny_shape(random, world);
  if (crowd) {
    shape.head_dim = 64;
    shape.num_heads = shape.num_kv_heads * random.pick({1U, 3U});
    shape.vocab = 300;
  }
  const StepLimits limits{
      .max_rows = 300,
      .max_sequences = crowd ? 180U : 12U,
      .max_position = crowd ? kPageTokens : 256U,
      .num_pages = crowd ? 200U : 40U,
      .max_logit_rows = crowd ? 180U : 12U,
      .max_partials = random.pick({0U, 256U, 256U}),
  };
  return {.shape = shape,
          .limits = limits,
          .options = {.num_sms = random.pick({1U, 24U, 132U, 132U})},
          .num_sms = world == 8 ? random.pick({1U, 2U}) : random.pick({1U, 2U, 3U}),
          .model = std::make_unique<TestModel>(shape, limits.max_position, seed),
          .traffic =
              std::make_unique<Traffic>(seed, shape, limits, crowd ? 165U : 3U, crowd ? 2 : 200)};
}

}  // namespace terrazzo::testing
