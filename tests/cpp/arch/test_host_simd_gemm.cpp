// gemm_panel: each element is one fma chain of its own operands, in every shape and at every level.
#include "simd_support.hpp"

namespace {

using namespace terrazzo;
using namespace terrazzo::testing;
using host::SimdLevel;

constexpr uint32_t kMaxRows = 64;
constexpr uint32_t kMaxCols = 256;
constexpr uint32_t kPanels = 3;
constexpr float kGuard = 12345.0f;

struct Problem {
  std::vector<Tile> a;
  std::vector<Tile> b;
  std::vector<float> initial;   // [kMaxRows, kMaxCols]
  std::vector<float> expected;  // [kMaxRows, kMaxCols]
};

/// The definition, element by element.
float chain(const Problem& problem, uint32_t i, uint32_t j) {
  float sum = problem.initial[i * kMaxCols + j];
  for (uint32_t p = 0; p < kPanels; ++p) {
    for (uint32_t k = 0; k < kPanelCols; ++k) {
      sum = std::fma(problem.a[p].get(i, k), problem.b[p].get(j, k), sum);
    }
  }
  return sum;
}

Problem make_problem(uint32_t seed, int spread, std::size_t offset = 0) {
  Random random(seed);
  Problem problem;
  for (uint32_t p = 0; p < kPanels; ++p) {
    random.fill(problem.a.emplace_back(kMaxRows, offset), kMaxRows, spread);
    random.fill(problem.b.emplace_back(kMaxCols, offset), kMaxCols, spread);
  }
  problem.initial = random.values(kMaxRows * kMaxCols, spread);
  return problem;
}

void fill_expected(Problem& problem) {
  problem.expected.resize(kMaxRows * kMaxCols);
  for (uint32_t i = 0; i < kMaxRows; ++i) {
    for (uint32_t j = 0; j < kMaxCols; ++j) {
      problem.expected[i * kMaxCols + j] = chain(problem, i, j);
    }
  }
}

/// Runs the first rows x cols of a problem; accumulators have stride ld, start one float off any
/// alignment when `odd`, and have guards around them.
void check_shape(const Problem& problem, SimdLevel level, uint32_t rows, uint32_t cols, uint32_t ld,
                 bool odd) {
  const uint32_t start = odd ? 17 : 16;
  std::vector<float> acc(start + rows * ld + 16, kGuard);
  std::vector<float> expected = acc;
  for (uint32_t i = 0; i < rows; ++i) {
    for (uint32_t j = 0; j < cols; ++j) {
      acc[start + i * ld + j] = problem.initial[i * kMaxCols + j];
      expected[start + i * ld + j] = problem.expected[i * kMaxCols + j];
    }
  }
  for (uint32_t p = 0; p < kPanels; ++p) {
    host::kernels(level).gemm_panel(acc.data() + start, ld, problem.a[p].data(),
                                    problem.b[p].data(), rows, cols);
  }
  check_same(acc, expected,
             text(host::simd_level_name(level), " rows ", rows, " cols ", cols, " ld ", ld));
}

TERRAZZO_TEST(every_row_count_and_column_count_gives_the_chain) {
  Problem problem = make_problem(1, 3);
  fill_expected(problem);
  for (const SimdLevel level : supported_levels()) {
    for (uint32_t rows = 1; rows <= kMaxRows; ++rows) {
      for (uint32_t cols = 8; cols <= kMaxCols; cols += 8) {
        // All combinations of few rows; of many rows, every count of either with some of the other.
        if (rows <= 9 || rows % 16 == 0 || cols % 64 == 0 || (rows + cols) % 11 == 0) {
          check_shape(problem, level, rows, cols, kMaxCols, false);
        }
      }
    }
  }
}

TERRAZZO_TEST(stride_and_alignment_do_not_matter) {
  for (const std::size_t offset : {std::size_t{0}, std::size_t{128}, std::size_t{2}}) {
    Problem problem = make_problem(2, 3, offset);
    fill_expected(problem);
    for (const SimdLevel level : supported_levels()) {
      for (const uint32_t rows : {1u, 3u, 8u, 9u, 33u, 64u}) {
        for (const uint32_t cols : {8u, 24u, 56u, 256u}) {
          check_shape(problem, level, rows, cols, cols, true);
          check_shape(problem, level, rows, cols, cols + 3, true);
        }
      }
    }
  }
}

TERRAZZO_TEST(values_outside_the_shape_are_not_used) {
  Problem problem = make_problem(3, 3);
  fill_expected(problem);
  for (const uint32_t rows : {1u, 5u, 8u, 12u, 63u}) {
    for (const uint32_t cols : {8u, 24u, 40u, 200u}) {
      Problem poisoned = problem;
      for (uint32_t p = 0; p < kPanels; ++p) {
        for (uint32_t i = rows; i < kMaxRows; ++i) {
          poisoned.a[p].fill_row(i, kNan);
        }
        for (uint32_t j = cols; j < kMaxCols; ++j) {
          poisoned.b[p].fill_row(j, kNan);
        }
      }
      for (const SimdLevel level : supported_levels()) {
        check_shape(poisoned, level, rows, cols, kMaxCols, false);
      }
    }
  }
}

TERRAZZO_TEST(a_nan_or_infinity_stays_in_its_row_or_column) {
  Problem problem = make_problem(4, 3);
  problem.a[1].set(5, 7, kNan);
  problem.a[2].set(20, 63, kInf);
  problem.b[0].set(33, 0, kNan);
  problem.b[1].set(40, 12, -kInf);
  fill_expected(problem);
  CHECK(problem.expected[5 * kMaxCols] != problem.expected[5 * kMaxCols]);
  CHECK(problem.expected[6 * kMaxCols] == problem.expected[6 * kMaxCols]);
  for (const SimdLevel level : supported_levels()) {
    for (const uint32_t rows : {1u, 6u, 7u, 8u, 21u, 64u}) {
      check_shape(problem, level, rows, kMaxCols, kMaxCols, false);
    }
  }
}

TERRAZZO_TEST(values_of_very_different_size_keep_the_chain) {
  // 2^-60 .. 2^60: products stay normal, and most additions round.
  Problem problem = make_problem(5, 60);
  fill_expected(problem);
  for (const SimdLevel level : supported_levels()) {
    for (const uint32_t rows : {1u, 4u, 9u, 64u}) {
      check_shape(problem, level, rows, kMaxCols, kMaxCols, false);
    }
  }
}

TERRAZZO_TEST(subnormal_products_keep_the_chain_where_fma_is_an_instruction) {
  Problem problem = make_problem(6, 3);
  Random random(7);
  for (uint32_t p = 0; p < kPanels; ++p) {
    for (uint32_t i = 0; i < kMaxRows; ++i) {
      for (uint32_t k = 0; k < kPanelCols; ++k) {
        problem.a[p].set(i, k, std::ldexp(random.value(), -70));
      }
    }
    for (uint32_t j = 0; j < kMaxCols; ++j) {
      for (uint32_t k = 0; k < kPanelCols; ++k) {
        problem.b[p].set(j, k, std::ldexp(random.value(), -70));
      }
    }
  }
  for (float& x : problem.initial) {
    x = std::ldexp(random.value(), -135);
  }
  fill_expected(problem);
  for (const SimdLevel level : supported_levels()) {
    if (TERRAZZO_SIMD_X86 != 0 && level == SimdLevel::baseline) {
      continue;  // it multiplies and adds: documented in simd.hpp
    }
    for (const uint32_t rows : {1u, 8u, 9u, 64u}) {
      check_shape(problem, level, rows, kMaxCols, kMaxCols, false);
    }
  }
}

}  // namespace
