// Random operands with bad numbers among them, and the results of a group of checks.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "terrazzo/core/bf16.hpp"

namespace terrazzo::testing {

using Random = std::mt19937;

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInf = std::numeric_limits<float>::infinity();

/// Results of one group of cases.
class Report {
 public:
  explicit Report(const char* name) : name_(name) {}

  void check(bool good, const std::string& what) {
    ++checks_;
    if (!good && ++failures_ <= 5) {
      std::printf("  %s: %s\n", name_, what.c_str());
    }
  }
  bool finish() const {
    std::printf("%s %s: %llu checks, %llu failures\n",
                failures_ == 0 && checks_ != 0 ? "PASS" : "FAIL", name_,
                static_cast<unsigned long long>(checks_),
                static_cast<unsigned long long>(failures_));
    std::fflush(stdout);
    return failures_ == 0 && checks_ != 0;
  }

 private:
  const char* name_;
  uint64_t checks_ = 0;
  uint64_t failures_ = 0;
};

inline bool same_float(float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); }

/// Also the sign of zero; of NaN only that it is one.
inline bool same_bits(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

/// One of a normal distribution; one in `bad_one_in` (0: none) is NaN, infinite, zero of either
/// sign, subnormal or huge.
inline float random_value(Random& random, uint32_t bad_one_in) {
  std::normal_distribution<float> normal(0.0F, 2.0F);
  const float plain = normal(random);
  if (bad_one_in == 0 || random() % bad_one_in != 0) {
    return plain;
  }
  const float bad[] = {kNaN, kInf, -kInf, 0.0F, -0.0F, plain * 0x1p-130F, plain * 0x1p+100F};
  return bad[random() % std::size(bad)];
}

inline std::vector<float> random_values(Random& random, size_t count, uint32_t bad_one_in) {
  std::vector<float> values(count);
  for (float& value : values) {
    value = random_value(random, bad_one_in);
  }
  return values;
}

inline std::vector<bf16> random_bf16(Random& random, size_t count, uint32_t bad_one_in) {
  std::vector<bf16> values(count);
  for (bf16& value : values) {
    value = to_bf16(random_value(random, bad_one_in));
  }
  return values;
}

}  // namespace terrazzo::testing
