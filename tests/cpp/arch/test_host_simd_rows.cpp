// exp2, log and the row helpers: accuracy, special values, equal bits for any length and alignment.
#include <algorithm>
#include <functional>

#include "simd_support.hpp"

namespace {

using namespace terrazzo;
using namespace terrazzo::testing;
using host::Kernels;
using host::SimdLevel;

constexpr uint32_t kMaxCount = 70;
constexpr float kGuard = 4321.0f;

/// Distance in units of the last place of the exact value (of the smallest normal number, below
/// it).
double error_in_ulps(float seen, double exact) {
  const int exponent = std::max(std::ilogb(exact), -126);
  return std::abs(static_cast<double>(seen) - exact) / std::ldexp(1.0, exponent - 23);
}

TERRAZZO_TEST(exp2_is_accurate) {
  double worst = 0.0;
  for (float x = -149.0f; x < 128.0f; x += 0.00037f) {
    const double exact = std::exp2(static_cast<double>(x));
    const double error = error_in_ulps(host::exp2_approx(x), exact);
    worst = std::max(worst, error);
  }
  CHECK(worst < 1.0);
  for (int n = -149; n < 128; ++n) {
    CHECK_EQ(host::exp2_approx(static_cast<float>(n)), std::ldexp(1.0f, n));
  }
}

TERRAZZO_TEST(exp2_special_values) {
  CHECK_EQ(bits_of(host::exp2_approx(-kInf)), 0u);
  CHECK_EQ(bits_of(host::exp2_approx(-150.0f)), 0u);
  CHECK_EQ(bits_of(host::exp2_approx(-3e38f)), 0u);
  CHECK_EQ(host::exp2_approx(-0.0f), 1.0f);
  CHECK_EQ(host::exp2_approx(128.0f), kInf);
  CHECK_EQ(host::exp2_approx(kInf), kInf);
  CHECK(host::exp2_approx(127.9999f) < kInf);
  CHECK(std::isnan(host::exp2_approx(kNan)));
}

TERRAZZO_TEST(log_is_accurate) {
  double worst = 0.0;
  for (uint32_t bits = 0x00800000u; bits < 0x7f800000u; bits += 4099) {
    const auto x = std::bit_cast<float>(bits);
    const double exact = std::log(static_cast<double>(x));
    if (exact != 0.0) {
      worst = std::max(worst, error_in_ulps(host::log_approx(x), exact));
    }
  }
  CHECK(worst < 1.5);
  CHECK_EQ(bits_of(host::log_approx(1.0f)), 0u);
}

/// Runs `body(kernels, out, offset, n)` for all levels, lengths and offsets: out[0..n) must be what
/// `element(i)` gives, the rest untouched.
void check_lengths(const std::string& what,
                   const std::function<void(const Kernels&, float*, uint32_t, uint32_t)>& body,
                   const std::function<float(uint32_t)>& element) {
  for (const SimdLevel level : supported_levels()) {
    for (uint32_t offset = 0; offset < 3; ++offset) {
      for (uint32_t n = 0; n + offset <= kMaxCount; ++n) {
        std::vector<float> out(kMaxCount + 32, kGuard);
        std::vector<float> expected = out;
        for (uint32_t i = 0; i < n; ++i) {
          expected[offset + i] = element(offset + i);
        }
        body(host::kernels(level), out.data() + offset, offset, n);
        check_same(out, expected, text(what, ' ', host::simd_level_name(level), " n ", n));
      }
    }
  }
}

std::vector<float> mixed_values(uint32_t seed) {
  Random random(seed);
  std::vector<float> x = random.values(kMaxCount, 6);
  x[3] = kNan;
  x[11] = kInf;
  x[17] = -kInf;
  x[20] = 0.0f;
  x[33] = -0.0f;
  x[40] = 1e-40f;
  return x;
}

TERRAZZO_TEST(maps_do_not_depend_on_length_alignment_or_level) {
  const std::vector<float> x = mixed_values(1);
  const std::vector<float> y = mixed_values(2);
  std::vector<float> magnitude = Random(3).values(kMaxCount, 60);
  for (float& m : magnitude) {
    m = std::abs(m);
  }
  check_lengths(
      "exp2",
      [&](const Kernels& k, float* out, uint32_t at, uint32_t n) {
        k.exp2_row(out, x.data() + at, n);
      },
      [&](uint32_t i) { return host::exp2_approx(x[i]); });
  check_lengths(
      "log",
      [&](const Kernels& k, float* out, uint32_t at, uint32_t n) {
        k.log_row(out, magnitude.data() + at, n);
      },
      [&](uint32_t i) { return host::log_approx(magnitude[i]); });
  check_lengths(
      "silu_mul",
      [&](const Kernels& k, float* out, uint32_t at, uint32_t n) {
        k.silu_mul(out, x.data() + at, y.data() + at, n);
      },
      [&](uint32_t i) {
        const float power = host::exp2_approx(x[i] * -0x1.715476p+0f);
        return x[i] / (power + 1.0f) * y[i];
      });
  check_lengths(
      "scale_row",
      [&](const Kernels& k, float* out, uint32_t at, uint32_t n) {
        std::copy_n(x.data() + at, n, out);
        k.scale_row(out, 0.3f, n);
      },
      [&](uint32_t i) { return x[i] * 0.3f; });
}

TERRAZZO_TEST(silu_mul_is_silu) {
  for (float gate = -80.0f; gate < 80.0f; gate += 0.013f) {
    const float up = 1.75f;
    float seen;
    host::silu_mul(&seen, &gate, &up, 1);
    const double exact = gate / (1.0 + std::exp(-static_cast<double>(gate))) * 1.75;
    // log2(e) and its product with gate are rounded (an error of |gate| 2^-24 each in the
    // exponent); a few more roundings follow.
    CHECK_NEAR(seen, exact, std::abs(exact) * 0x1p-24 * (2.0 * std::abs(gate) + 8.0));
  }
}

TERRAZZO_TEST(every_fp32_pattern_class_rounds_as_to_bf16) {
  for (const SimdLevel level : supported_levels()) {
    uint32_t bits = 0;
    float values[kPanelCols];
    Tile tile(1);
    do {
      for (float& value : values) {
        value = std::bit_cast<float>(bits);
        bits += 0x3fffu * 3u;  // meets all exponents, ties and both sides of them
      }
      host::kernels(level).round_store_row(tile.data(), 0, values, kPanelCols);
      for (uint32_t col = 0; col < kPanelCols; ++col) {
        bf16 seen;
        std::memcpy(&seen, tile.data() + element_offset(0, col), sizeof seen);
        if (seen.bits != to_bf16(values[col]).bits) {
          CHECK_EQ(seen.bits, to_bf16(values[col]).bits);
        }
      }
    } while (bits > 0x3fffu * 3u * kPanelCols);
  }
}

TERRAZZO_TEST(nans_of_any_payload_stay_nan_when_rounded) {
  const uint32_t patterns[] = {0x7f800001u, 0xff800001u, 0x7f80ffffu, 0x7fffffffu,
                               0xffffffffu, 0x7fc00000u, 0x7f800000u, 0xff800000u};
  float values[kPanelCols];
  for (uint32_t col = 0; col < kPanelCols; ++col) {
    values[col] = std::bit_cast<float>(patterns[col % 8]);
  }
  for (const SimdLevel level : supported_levels()) {
    Tile tile(1);
    host::kernels(level).round_store_row(tile.data(), 0, values, kPanelCols);
    for (uint32_t col = 0; col < kPanelCols; ++col) {
      CHECK_EQ(std::isnan(tile.get(0, col)), std::isnan(values[col]));
      CHECK(std::isnan(values[col]) || tile.get(0, col) == values[col]);
    }
  }
}

TERRAZZO_TEST(row_helpers_use_the_swizzle_and_stop_at_cols) {
  Random random(5);
  Tile tile(16);
  random.fill(tile, 16);
  tile.set(3, 10, kNan);
  for (const SimdLevel level : supported_levels()) {
    const Kernels& kernels = host::kernels(level);
    for (uint32_t row = 0; row < 16; ++row) {
      for (uint32_t cols = 0; cols <= kPanelCols; ++cols) {
        const std::vector<float> before = random.values(kPanelCols + 1);
        std::vector<float> loaded = before;
        std::vector<float> added = before;
        std::vector<float> expect_loaded = before;
        std::vector<float> expect_added = before;
        Tile stored = tile;
        for (uint32_t col = 0; col < cols; ++col) {
          expect_loaded[col] = tile.get(row, col);
          expect_added[col] += tile.get(row, col);
        }
        kernels.load_row(loaded.data(), tile.data(), row, cols);
        kernels.add_row(added.data(), tile.data(), row, cols);
        kernels.round_store_row(stored.data(), row, before.data(), cols);
        check_same(loaded, expect_loaded, "load_row");
        check_same(added, expect_added, "add_row");
        for (uint32_t r = 0; r < 16; ++r) {
          for (uint32_t col = 0; col < kPanelCols; ++col) {
            const bool written = r == row && col < cols;
            const float expected = written ? to_float(to_bf16(before[col])) : tile.get(r, col);
            CHECK(same(stored.get(r, col), expected));
          }
        }
      }
    }
  }
}

TERRAZZO_TEST(sum_squares_is_sixteen_chains_and_a_tree) {
  Random random(6);
  Tile tile(9);
  random.fill(tile, 9, 4);
  for (uint32_t row = 0; row < 9; ++row) {
    float sums[16] = {};
    double exact = 0.0;
    for (uint32_t col = 0; col < kPanelCols; ++col) {
      const float x = tile.get(row, col);
      sums[col % 16] = std::fma(x, x, sums[col % 16]);
      exact += double{x} * x;
    }
    for (uint32_t apart = 8; apart > 0; apart /= 2) {
      for (uint32_t i = 0; i < apart; ++i) {
        sums[i] += sums[i + apart];
      }
    }
    CHECK_NEAR(sums[0], exact, exact * 8 * 0x1p-24);
    for (const SimdLevel level : supported_levels()) {
      CHECK_EQ(bits_of(host::kernels(level).sum_squares_row(tile.data(), row)), bits_of(sums[0]));
    }
  }
}

TERRAZZO_TEST(max_and_sum_exp_for_every_length) {
  Random random(7);
  for (uint32_t n = 1; n <= kMaxCount; ++n) {
    std::vector<float> x = random.values(n, 2);  // below 8
    const uint32_t first = random.below(n);
    x[first] = 9.5f;
    x[first + random.below(n - first)] = 9.5f;  // a tie: the lower index wins
    double exact = 0.0;
    for (const float value : x) {
      exact += std::exp(double{value} - 9.5);
    }
    const host::MaxSumExp reference = host::max_and_sum_exp_row(x.data(), n);
    CHECK_EQ(reference.max, 9.5f);
    CHECK_EQ(reference.index, first);
    CHECK_NEAR(reference.sum, exact, exact * 16 * 0x1p-24);
    for (const SimdLevel level : supported_levels()) {
      std::vector<float> moved(n + 1, 99.0f);
      std::copy(x.begin(), x.end(), moved.begin() + 1);
      const auto seen = host::kernels(level).max_and_sum_exp_row(moved.data() + 1, n);
      CHECK_EQ(seen.index, first);
      CHECK_EQ(bits_of(seen.sum), bits_of(reference.sum));
    }
  }
}

TERRAZZO_TEST(max_and_sum_exp_special_values) {
  for (const SimdLevel level : supported_levels()) {
    const auto run = [&](std::vector<float> x) {
      return host::kernels(level).max_and_sum_exp_row(x.data(), static_cast<uint32_t>(x.size()));
    };
    const auto with_nan = run({1.0f, kNan, 3.0f});
    CHECK_EQ(with_nan.max, 3.0f);
    CHECK_EQ(with_nan.index, 2u);
    CHECK(std::isnan(with_nan.sum));
    const auto masked = run({-kInf, 2.0f, -kInf, 2.0f});
    CHECK_EQ(masked.index, 1u);
    CHECK_EQ(masked.sum, 2.0f);
    const auto none = run({-kInf, -kInf});
    CHECK_EQ(none.index, 0u);
    CHECK_EQ(none.sum, 0.0f);
  }
}

}  // namespace
