// Steps and model shapes for the tests of the lowering and the verifier.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "lower/lower.hpp"

namespace terrazzo::testing {

/// The arrays that a StepRequest views.
struct StepArrays {
  std::vector<int32_t> token_ids, seq_lens, context_lens, page_indptr, page_ids, logit_rows;
  std::vector<float> temperature, top_p;
  std::vector<int32_t> top_k, output_position;
  std::vector<uint64_t> seed;
  std::vector<uint8_t> want_logits;

  StepRequest request() const {
    return {token_ids,   seq_lens, context_lens, page_indptr, page_ids,        logit_rows,
            temperature, top_k,    top_p,        seed,        output_position, want_logits};
  }

  /// Adds a sequence of `rows` rows after `context` cached tokens; its pages follow later.
  void add_sequence(int32_t rows, int32_t context) {
    seq_lens.push_back(rows);
    context_lens.push_back(context);
    token_ids.insert(token_ids.end(), static_cast<size_t>(rows), 1);
  }

  void add_logit_row(int32_t row, float row_temperature, int32_t row_top_k, bool wanted) {
    logit_rows.push_back(row);
    temperature.push_back(row_temperature);
    top_k.push_back(row_top_k);
    top_p.push_back(1.0F);
    seed.push_back(7);
    output_position.push_back(0);
    want_logits.push_back(wanted ? 1 : 0);
  }

  /// Gives each sequence its own pages, taken from `pool` in order.
  void assign_pages(const std::vector<int32_t>& pool) {
    page_indptr = {0};
    size_t next = 0;
    for (size_t s = 0; s < seq_lens.size(); ++s) {
      const auto tokens = static_cast<uint32_t>(context_lens[s] + seq_lens[s]);
      for (uint32_t i = 0; i < ceil_div(tokens, kPageTokens); ++i) {
        page_ids.push_back(pool.at(next++));
      }
      page_indptr.push_back(static_cast<int32_t>(page_ids.size()));
    }
  }
};

inline std::vector<int32_t> ascending_pages(uint32_t count) {
  std::vector<int32_t> pages(count);
  std::iota(pages.begin(), pages.end(), 0);
  return pages;
}

struct TestCase {
  ModelShape shape;
  StepLimits limits;
  LowerOptions options;
  StepArrays arrays;
};

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  /// Uniform in [low, high].
  int32_t range(int32_t low, int32_t high) {
    return std::uniform_int_distribution<int32_t>(low, high)(engine_);
  }
  bool chance(double probability) { return std::bernoulli_distribution(probability)(engine_); }
  template <class T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[range(0, static_cast<int32_t>(values.size()) - 1)];
  }
  std::mt19937_64& engine() { return engine_; }

 private:
  std::mt19937_64 engine_;
};

/// Small models: all head dimensions, odd groups, sizes off the tile.
inline ModelShape random_shape(Random& random, uint32_t world) {
  const auto kv_heads = world * static_cast<uint32_t>(random.range(1, 3));
  return {.num_layers = static_cast<uint32_t>(random.range(1, 3)),
          .hidden = static_cast<uint32_t>(random.range(1, 40)) * 16,
          .intermediate = static_cast<uint32_t>(random.range(1, 60)) * 16,
          .num_heads = kv_heads * static_cast<uint32_t>(random.pick({1, 2, 3, 4, 8})),
          .num_kv_heads = kv_heads,
          .head_dim = random.pick({64U, 128U}),
          .vocab = static_cast<uint32_t>(random.range(5, 3000)),
          .norm_eps = 1e-5F,
          .world = world,
          .split_tokens = random.pick({64U, 128U, 256U}),
          .o_sharded = world > 1 && random.chance(0.5)};
}

inline TestCase random_case(uint64_t seed, uint32_t world) {
  Random random(seed);
  TestCase test{.shape = random_shape(random, world),
                .limits =
                    {
                        .max_rows = 700,
                        .max_sequences = 320,
                        .max_position = 1500,
                        .num_pages = 4000,
                        .max_logit_rows = 320,
                        .max_partials = static_cast<uint32_t>(random.pick({0, 64, 4096})),
                    },
                .options = {static_cast<uint32_t>(random.pick({1, 4, 24, 132}))},
                .arrays = {}};
  StepArrays& arrays = test.arrays;
  const int32_t decodes = random.pick({0, 1, 3, 20, 90, 250});
  for (int32_t i = 0; i < decodes; ++i) {
    arrays.add_sequence(1, random.chance(0.1) ? random.range(500, 1400) : random.range(0, 200));
  }
  const int32_t prompts = random.range(decodes == 0 ? 1 : 0, 4);
  for (int32_t i = 0; i < prompts; ++i) {
    arrays.add_sequence(random.chance(0.5) ? random.range(1, 100) : random.range(1, 3),
                        random.chance(0.5) ? 0 : random.range(0, 600));
  }
  auto pool = ascending_pages(test.limits.num_pages);
  std::shuffle(pool.begin(), pool.end(), random.engine());
  arrays.assign_pages(pool);

  const double share = random.pick({0.0, 0.3, 1.0});
  int32_t row = 0;
  for (const int32_t length : arrays.seq_lens) {
    row += length;
    if (random.chance(share)) {
      arrays.add_logit_row(row - 1, random.pick({0.0F, 0.7F}), random.pick({0, 5}),
                           random.chance(0.2));
    }
  }
  for (int32_t& token : arrays.token_ids) {
    token = random.chance(0.3) ? -random.range(1, static_cast<int32_t>(test.limits.max_sequences))
                               : random.range(0, static_cast<int32_t>(test.shape.vocab) - 1);
  }
  return test;
}

inline LoweredStep lower(const TestCase& test) {
  return terrazzo::lower(test.arrays.request(), test.shape, test.limits, test.options);
}

}  // namespace terrazzo::testing
