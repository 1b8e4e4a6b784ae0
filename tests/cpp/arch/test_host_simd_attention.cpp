// attention_page and attention_fold: a row's bits come from its own query and visible tokens only.
#include <memory>

#include "simd_support.hpp"

namespace {

using namespace terrazzo;
using namespace terrazzo::testing;
using host::AttentionState;
using host::SimdLevel;

constexpr uint32_t kMaxRows = 64;
constexpr uint32_t kPages = 3;
constexpr float kScale = 0.18f;

struct State {
  State(uint32_t rows, uint32_t head_dim) : out(rows * head_dim), max(rows), sum(rows) {
    host::attention_clear(view(), rows, head_dim);
  }
  AttentionState view() { return {out.data(), max.data(), sum.data()}; }

  std::vector<float> out;
  std::vector<float> max;
  std::vector<float> sum;
};

struct Problem {
  Problem(uint32_t seed, uint32_t panels) : head_panels(panels) {
    Random random(seed);
    random.fill(q, kMaxRows * panels, 1);
    for (uint32_t page = 0; page < kPages; ++page) {
      random.fill(k.emplace_back(kPageTokens * panels), kPageTokens * panels, 1);
      random.fill(v.emplace_back(kPageTokens * panels), kPageTokens * panels, 2);
    }
  }
  uint32_t head_dim() const { return head_panels * kPanelCols; }
  float query(uint32_t row, uint32_t d) const { return at(q, kMaxRows, row, d); }
  static float at(const Tile& tile, uint32_t panel_rows, uint32_t row, uint32_t d) {
    return tile.get(d / kPanelCols * panel_rows + row, d % kPanelCols);
  }

  uint32_t head_panels;
  Tile q{2 * kMaxRows};  // [panel][row]
  std::vector<Tile> k;   // [page][panel, token]
  std::vector<Tile> v;
};

/// The definition for one row, without vectors or blocks.
void reference_row(const Problem& problem, uint32_t row, uint32_t page, uint32_t limit, float* out,
                   float& max, float& sum) {
  if (limit == 0) {
    return;
  }
  std::vector<float> scores(limit);
  float new_max = max;
  for (uint32_t token = 0; token < limit; ++token) {
    float s = 0.0f;
    for (uint32_t d = 0; d < problem.head_dim(); ++d) {
      s = std::fma(problem.query(row, d), Problem::at(problem.k[page], kPageTokens, token, d), s);
    }
    scores[token] = s;
    new_max = s * kScale > new_max ? s * kScale : new_max;
  }
  const float reference = new_max == -kInf ? 0.0f : new_max;
  float sums[16] = {};
  for (uint32_t token = 0; token < limit; ++token) {
    const float p = host::exp2_approx(std::fma(scores[token], kScale, -reference));
    sums[token % 16] += p;
    scores[token] = to_float(to_bf16(p));
  }
  for (uint32_t apart = 8; apart > 0; apart /= 2) {
    for (uint32_t i = 0; i < apart; ++i) {
      sums[i] += sums[i + apart];
    }
  }
  const float alpha = host::exp2_approx(max - reference);
  sum = std::fma(sum, alpha, sums[0]);
  max = new_max;
  for (uint32_t d = 0; d < problem.head_dim(); ++d) {
    out[d] *= alpha;
    for (uint32_t token = 0; token < limit; ++token) {
      const float value = Problem::at(problem.v[page], kPageTokens, token, d);
      out[d] = std::fma(scores[token], value, out[d]);
    }
  }
}

/// Query rows [first, first + rows) of a problem as a call of their own.
struct Call {
  Call(const Problem& problem, uint32_t first, uint32_t count, uint32_t stride_rows)
      : rows(count), stride(stride_rows * kRowBytes), q(2 * stride_rows) {
    for (uint32_t panel = 0; panel < problem.head_panels; ++panel) {
      for (uint32_t row = 0; row < rows; ++row) {
        for (uint32_t col = 0; col < kPanelCols; ++col) {
          q.set(panel * stride_rows + row, col, problem.q.get(panel * kMaxRows + first + row, col));
        }
      }
    }
  }
  void page(const Problem& problem, uint32_t index, SimdLevel level, State& state,
            const uint32_t* limits) const {
    host::kernels(level).attention_page(state.view(), q.data(), stride, problem.k[index].data(),
                                        problem.v[index].data(), rows, problem.head_panels, limits,
                                        kScale);
  }

  uint32_t rows;
  uint32_t stride;
  Tile q;
};

State expected_state(const Problem& problem, const std::vector<std::vector<uint32_t>>& limits) {
  State state(kMaxRows, problem.head_dim());
  for (uint32_t page = 0; page < limits.size(); ++page) {
    for (uint32_t row = 0; row < kMaxRows; ++row) {
      reference_row(problem, row, page, limits[page][row],
                    state.out.data() + row * problem.head_dim(), state.max[row], state.sum[row]);
    }
  }
  return state;
}

void check_rows(const State& seen, const State& expected, uint32_t first, uint32_t rows,
                uint32_t head_dim, const std::string& what) {
  const auto part = [&](const std::vector<float>& all, uint32_t width) {
    return std::vector<float>(all.begin() + first * width, all.begin() + (first + rows) * width);
  };
  check_same(seen.max, part(expected.max, 1), what + " max");
  check_same(seen.sum, part(expected.sum, 1), what + " sum");
  check_same(seen.out, part(expected.out, head_dim), what + " out");
}

/// Full pages, a diagonal that ends in the last page, rows with no token at all.
std::vector<std::vector<uint32_t>> ragged_limits() {
  std::vector<std::vector<uint32_t>> limits(kPages, std::vector<uint32_t>(kMaxRows));
  Random random(77);
  for (uint32_t row = 0; row < kMaxRows; ++row) {
    limits[0][row] = row % 13 == 5 ? 0 : kPageTokens;
    limits[1][row] = row + 1;
    limits[2][row] = random.below(3) == 0 ? 0 : random.below(kPageTokens + 1);
  }
  return limits;
}

void check_all_splits(const Problem& problem, const std::vector<std::vector<uint32_t>>& limits,
                      const State& expected, const std::string& what) {
  for (const SimdLevel level : supported_levels()) {
    for (const uint32_t rows : {1u, 2u, 3u, 4u, 5u, 7u, 8u, 9u, 13u, 16u, 31u, 64u}) {
      for (uint32_t first = 0; first + rows <= kMaxRows; first += rows) {
        const Call call(problem, first, rows, rows <= 16 ? 16 : kMaxRows);
        State state(rows, problem.head_dim());
        for (uint32_t page = 0; page < limits.size(); ++page) {
          call.page(problem, page, level, state, limits[page].data() + first);
        }
        check_rows(state, expected, first, rows, problem.head_dim(),
                   text(what, ' ', host::simd_level_name(level), " head panels ",
                        problem.head_panels, " rows ", first, "+", rows));
      }
    }
  }
}

TERRAZZO_TEST(any_number_of_rows_gives_the_definition) {
  for (const uint32_t panels : {1u, 2u}) {
    const Problem problem(panels, panels);
    const auto limits = ragged_limits();
    check_all_splits(problem, limits, expected_state(problem, limits), "ragged");
  }
}

TERRAZZO_TEST(every_limit_gives_the_definition) {
  const Problem problem(3, 1);
  std::vector<std::vector<uint32_t>> limits(1, std::vector<uint32_t>(kMaxRows));
  for (uint32_t start = 0; start <= kPageTokens; start += 4) {
    for (uint32_t row = 0; row < kMaxRows; ++row) {
      limits[0][row] = (start + row) % (kPageTokens + 1);
    }
    const State expected = expected_state(problem, limits);
    for (const SimdLevel level : supported_levels()) {
      const Call call(problem, 0, kMaxRows, kMaxRows);
      State state(kMaxRows, problem.head_dim());
      call.page(problem, 0, level, state, limits[0].data());
      check_rows(state, expected, 0, kMaxRows, problem.head_dim(), text("start ", start));
    }
  }
}

TERRAZZO_TEST(tokens_beyond_the_limit_do_not_matter_even_if_nan) {
  const Problem problem(4, 2);
  auto limits = ragged_limits();
  for (uint32_t row = 0; row < kMaxRows; ++row) {
    limits[2][row] = row % 21;
  }
  const State expected = expected_state(problem, limits);
  Problem poisoned = problem;
  for (uint32_t panel = 0; panel < 2; ++panel) {
    for (uint32_t token = 20; token < kPageTokens; ++token) {
      poisoned.k[2].fill_row(panel * kPageTokens + token, token % 2 == 0 ? kNan : kInf);
      poisoned.v[2].fill_row(panel * kPageTokens + token, token % 2 == 0 ? kNan : -kInf);
    }
  }
  check_all_splits(poisoned, limits, expected, "poisoned");
}

TERRAZZO_TEST(a_nan_value_reaches_the_rows_that_see_it_and_no_others) {
  Problem problem(10, 1);
  const auto limits = ragged_limits();
  for (uint32_t token = 30; token < kPageTokens; ++token) {
    problem.v[1].fill_row(token, kNan);
  }
  const State expected = expected_state(problem, limits);
  CHECK(!std::isnan(expected.out[29 * 64]) && std::isnan(expected.out[30 * 64]));
  check_all_splits(problem, limits, expected, "NaN value");
}

TERRAZZO_TEST(scores_of_minus_infinity_weigh_nothing) {
  Problem problem(11, 1);
  for (uint32_t row = 0; row < kMaxRows; ++row) {
    problem.q.set(row, 0, 1.0f);
  }
  for (uint32_t token = 0; token < kPageTokens; ++token) {
    problem.k[0].set(token, 0, -kInf);
  }
  const std::vector<std::vector<uint32_t>> limits(kPages, std::vector<uint32_t>(kMaxRows, 64));
  const std::vector<std::vector<uint32_t>> one_page(1, limits[0]);
  const State nothing = expected_state(problem, one_page);
  CHECK(nothing.sum[0] == 0.0f && nothing.max[0] == -kInf && nothing.out[0] == 0.0f);
  check_all_splits(problem, one_page, nothing, "all -inf");
  check_all_splits(problem, limits, expected_state(problem, limits), "first page -inf");
}

TERRAZZO_TEST(a_nan_query_stays_in_its_row) {
  Problem problem(5, 1);
  problem.q.set(9, 3, kNan);
  const std::vector<std::vector<uint32_t>> limits(kPages, std::vector<uint32_t>(kMaxRows, 50));
  const State expected = expected_state(problem, limits);
  CHECK(expected.sum[9] != expected.sum[9] && expected.out[9 * 64] != expected.out[9 * 64]);
  CHECK(expected.sum[8] == expected.sum[8] && expected.sum[10] == expected.sum[10]);
  check_all_splits(problem, limits, expected, "NaN query");
}

TERRAZZO_TEST(limit_zero_leaves_the_state_untouched) {
  const Problem problem(6, 1);
  for (const SimdLevel level : supported_levels()) {
    const Call call(problem, 0, 4, 16);
    State state(4, 64);
    state.out.assign(state.out.size(), -0.0f);
    const uint32_t limits[4] = {0, 64, 0, 0};
    call.page(problem, 0, level, state, limits);
    for (const uint32_t row : {0u, 2u, 3u}) {
      CHECK_EQ(bits_of(state.out[row * 64 + 5]), bits_of(-0.0f));
      CHECK_EQ(state.max[row], -kInf);
      CHECK_EQ(state.sum[row], 0.0f);
    }
    CHECK(state.sum[1] >= 1.0f);
  }
}

/// Close to a softmax in double precision: that the definition above is the right one.
TERRAZZO_TEST(the_result_is_softmax_attention) {
  const Problem problem(8, 2);
  const std::vector<std::vector<uint32_t>> limits(kPages, std::vector<uint32_t>(kMaxRows, 64));
  const Call call(problem, 0, kMaxRows, kMaxRows);
  State state(kMaxRows, 128);
  for (uint32_t page = 0; page < kPages; ++page) {
    call.page(problem, page, host::best_simd_level(), state, limits[page].data());
  }
  for (uint32_t row = 0; row < kMaxRows; ++row) {
    std::vector<double> exact(128);
    std::vector<double> magnitude(128);
    double total = 0.0;
    for (uint32_t token = 0; token < kPages * kPageTokens; ++token) {
      const Tile& k = problem.k[token / kPageTokens];
      const Tile& v = problem.v[token / kPageTokens];
      double s = 0.0;
      for (uint32_t d = 0; d < 128; ++d) {
        s += double{problem.query(row, d)} * Problem::at(k, kPageTokens, token % kPageTokens, d);
      }
      const double p = std::exp2(s * double{kScale} - state.max[row]);
      total += p;
      for (uint32_t d = 0; d < 128; ++d) {
        const double x = Problem::at(v, kPageTokens, token % kPageTokens, d);
        exact[d] += p * x;
        magnitude[d] += p * std::abs(x);
      }
    }
    CHECK_NEAR(state.sum[row], total, 1e-4 * total);
    for (uint32_t d = 0; d < 128; ++d) {
      // P is rounded to the 8 significant bits of bf16; the rest is fp32 noise.
      CHECK_NEAR(state.out[row * 128 + d], exact[d], magnitude[d] * (0x1p-8 + 1e-4));
    }
  }
}

TERRAZZO_TEST(folding_parts_is_exact_where_one_is_empty_and_close_to_one_pass) {
  const Problem problem(9, 1);
  const auto limits = ragged_limits();
  const Call call(problem, 0, kMaxRows, kMaxRows);
  std::vector<State> at_levels;
  for (const SimdLevel level : supported_levels()) {
    State parts[kPages] = {{kMaxRows, 64}, {kMaxRows, 64}, {kMaxRows, 64}};
    State total(kMaxRows, 64);
    State one_pass(kMaxRows, 64);
    for (uint32_t page = 0; page < kPages; ++page) {
      call.page(problem, page, level, parts[page], limits[page].data());
      call.page(problem, page, level, one_pass, limits[page].data());
      const State before = total;
      host::kernels(level).attention_fold(total.view(), parts[page].view(), kMaxRows, 64);
      for (uint32_t row = 0; row < kMaxRows; ++row) {
        if (limits[page][row] == 0 || before.sum[row] == 0.0f) {
          const State& copy = limits[page][row] == 0 ? before : parts[page];
          CHECK(same(total.sum[row], copy.sum[row]) && same(total.max[row], copy.max[row]));
          for (uint32_t d = 0; d < 64; ++d) {
            CHECK_EQ(bits_of(total.out[row * 64 + d]), bits_of(copy.out[row * 64 + d]));
          }
        }
      }
    }
    for (uint32_t row = 0; row < kMaxRows; ++row) {
      CHECK_EQ(total.max[row], one_pass.max[row]);
      CHECK_NEAR(total.sum[row], one_pass.sum[row], 1e-5 * one_pass.sum[row]);
      for (uint32_t d = 0; d < 64; ++d) {
        // P is rounded to bf16 against different maxima; |V| < 8.
        CHECK_NEAR(total.out[row * 64 + d], one_pass.out[row * 64 + d],
                   8.0 * 0x1p-8 * one_pass.sum[row]);
      }
    }
    at_levels.push_back(total);
  }
  for (const State& state : at_levels) {
    check_rows(state, at_levels[0], 0, kMaxRows, 64, "levels agree");
  }
}

TERRAZZO_TEST(folding_keeps_nan_and_infinite_maxima_in_their_row) {
  for (const SimdLevel level : supported_levels()) {
    State total(3, 64);
    State part(3, 64);
    total.sum = {1.0f, 2.0f, 0.0f};
    total.max = {0.5f, 1.0f, -kInf};
    part.sum = {kNan, 1.0f, kNan};
    part.max = {-kInf, 3.0f, -kInf};
    host::kernels(level).attention_fold(total.view(), part.view(), 3, 64);
    CHECK(total.sum[0] != total.sum[0]);
    CHECK_EQ(total.sum[1], std::fma(1.0f, 1.0f, 2.0f * 0.25f));
    CHECK(total.sum[2] != total.sum[2]);
  }
}

}  // namespace
