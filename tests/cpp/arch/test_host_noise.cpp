// The counter-based noise of the sampler: equal bits everywhere, and as random as it has to be.
#include <algorithm>
#include <bit>

#include "simd_support.hpp"
#include "terrazzo/core/noise.hpp"

namespace {

using namespace terrazzo;
using namespace terrazzo::testing;
using host::SimdLevel;

/// Chi-square of observed counts against equal expectation, in standard deviations from its mean.
double chi_square_score(const std::vector<uint32_t>& counts, double expected) {
  double chi = 0.0;
  for (const uint32_t count : counts) {
    chi += (count - expected) * (count - expected) / expected;
  }
  const double freedom = static_cast<double>(counts.size()) - 1.0;
  return (chi - freedom) / std::sqrt(2.0 * freedom);
}

TERRAZZO_TEST(vector_and_scalar_noise_agree_for_any_run_of_ids) {
  for (const SimdLevel level : supported_levels()) {
    for (uint32_t n = 0; n < 50; ++n) {
      for (const uint32_t first : {0u, 5u, 128255u}) {
        std::vector<float> seen(n);
        std::vector<float> expected(n);
        host::kernels(level).gumbel_row(seen.data(), 0x123456789abcdefull, 17, first, n);
        for (uint32_t i = 0; i < n; ++i) {
          expected[i] = host::gumbel_noise(0x123456789abcdefull, 17, first + i);
        }
        check_same(seen, expected, text("gumbel n ", n));
      }
    }
  }
}

TERRAZZO_TEST(gumbel_noise_is_minus_log_minus_log_of_the_bits) {
  const NoiseKey key = noise_key(99, 4);
  for (uint32_t id = 0; id < 20000; ++id) {
    const double v = (noise_bits(key, id) / 2) * 0x1p-31 + 0x1p-32;
    const double exponential = -std::log1p(-v);
    // v is rounded to fp32, which matters where 1 - v is small (and the noise far from the
    // largest).
    const double slack = v * 0x1p-24 / ((1.0 - v) * exponential);
    CHECK_NEAR(host::gumbel_noise(99, 4, id), -std::log(exponential), 2e-6 + slack);
  }
}

TERRAZZO_TEST(perturbed_keys_are_scaled_logits_plus_noise) {
  const std::vector<float> logits = Random(1).values(77, 3);
  for (const SimdLevel level : supported_levels()) {
    std::vector<float> keys(77);
    host::kernels(level).perturb_row(keys.data(), logits.data(), 1.25f, 7, 3, 1000, 77);
    for (uint32_t i = 0; i < 77; ++i) {
      const float noise = host::gumbel_noise(7, 3, 1000 + i);
      CHECK_EQ(bits_of(keys[i]), bits_of(std::fma(logits[i], 1.25f, noise)));
    }
  }
}

TERRAZZO_TEST(mean_and_variance_are_those_of_gumbel) {
  constexpr uint32_t kCount = 1u << 20;
  std::vector<float> noise(kCount);
  host::kernels().gumbel_row(noise.data(), 5, 0, 0, kCount);
  double sum = 0.0;
  double squares = 0.0;
  for (const float x : noise) {
    CHECK(std::isfinite(x));
    sum += x;
    squares += double{x} * x;
  }
  const double mean = sum / kCount;
  const double variance = squares / kCount - mean * mean;
  CHECK_NEAR(mean, 0.5772156649, 5.0 * 1.2825 / std::sqrt(double{kCount}));
  CHECK_NEAR(variance, 1.6449340668, 0.02);
}

TERRAZZO_TEST(every_bit_field_is_uniform_over_ids_positions_and_seeds) {
  constexpr uint32_t kCount = 1u << 18;
  for (int along = 0; along < 3; ++along) {
    for (const uint32_t shift : {0u, 8u, 16u, 24u}) {
      std::vector<uint32_t> counts(256);
      std::vector<uint32_t> pairs(256);  // 4 bits of this one, 4 of the one before
      uint32_t before = 0;
      for (uint32_t i = 0; i < kCount; ++i) {
        const NoiseKey key = noise_key(along == 2 ? i : 42, along == 1 ? i : 3);
        const uint32_t field = noise_bits(key, along == 0 ? i : 11) >> shift & 0xffu;
        ++counts[field];
        ++pairs[(field & 0xfu) << 4 | (before & 0xfu)];
        before = field;
      }
      CHECK(std::abs(chi_square_score(counts, kCount / 256.0)) < 5.0);
      CHECK(std::abs(chi_square_score(pairs, kCount / 256.0)) < 5.0);
    }
  }
}

/// Flipping one input bit flips each output bit half of the time.
TERRAZZO_TEST(avalanche_of_id_position_and_seed_bits) {
  constexpr int kTrials = 4000;
  Random random(3);
  for (int input = 0; input < 128; ++input) {
    uint32_t flips[32] = {};
    for (int trial = 0; trial < kTrials; ++trial) {
      uint64_t seed = uint64_t{random.bits()} << 32 | random.bits();
      uint32_t position = random.below(4096);
      uint32_t id = random.below(128256);
      const uint32_t original = noise_bits(noise_key(seed, position), id);
      if (input < 64) {
        seed ^= uint64_t{1} << input;
      } else if (input < 96) {
        position ^= 1u << (input - 64);
      } else {
        id ^= 1u << (input - 96);
      }
      const uint32_t changed = original ^ noise_bits(noise_key(seed, position), id);
      for (int bit = 0; bit < 32; ++bit) {
        flips[bit] += changed >> bit & 1u;
      }
    }
    for (const uint32_t count : flips) {
      // Six standard deviations of 4,096 counts.
      CHECK(std::abs(count - kTrials / 2.0) < 6.0 * std::sqrt(kTrials / 4.0));
    }
  }
}

TERRAZZO_TEST(noise_of_a_row_has_no_equal_ids) {
  std::vector<uint32_t> seen(1u << 16);
  const NoiseKey key = noise_key(1, 2);
  for (uint32_t id = 0; id < seen.size(); ++id) {
    seen[id] = noise_bits(key, id);
  }
  std::sort(seen.begin(), seen.end());
  CHECK(std::adjacent_find(seen.begin(), seen.end()) == seen.end());
}

/// The argmax of perturbed logits is a sample of their softmax: over positions and over seeds.
TERRAZZO_TEST(sampled_frequencies_are_the_softmax) {
  constexpr uint32_t kVocabulary = 24;
  constexpr uint32_t kDraws = 200000;
  std::vector<float> logits = Random(8).values(kVocabulary, 1);
  const float inv_temperature = 0.8f;
  double total = 0.0;
  std::vector<double> probability(kVocabulary);
  for (uint32_t i = 0; i < kVocabulary; ++i) {
    probability[i] = std::exp(double{logits[i]} * inv_temperature);
    total += probability[i];
  }
  for (const bool over_positions : {false, true}) {
    std::vector<uint32_t> counts(kVocabulary);
    std::vector<float> keys(kVocabulary);
    for (uint32_t draw = 0; draw < kDraws; ++draw) {
      host::perturb_row(keys.data(), logits.data(), inv_temperature, over_positions ? 1234 : draw,
                        over_positions ? draw : 0, 0, kVocabulary);
      ++counts[host::max_and_sum_exp_row(keys.data(), kVocabulary).index];
    }
    double chi = 0.0;
    for (uint32_t i = 0; i < kVocabulary; ++i) {
      const double expected = kDraws * probability[i] / total;
      chi += (counts[i] - expected) * (counts[i] - expected) / expected;
    }
    const double freedom = kVocabulary - 1.0;
    CHECK(chi < freedom + 5.0 * std::sqrt(2.0 * freedom));
  }
}

}  // namespace
