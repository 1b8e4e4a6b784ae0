// Shared by the tests of arch/host/simd: tiles, random values, comparison of bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "../check.hpp"
#include "terrazzo/arch/host/simd/simd.hpp"

namespace terrazzo::testing {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
inline constexpr float kInf = std::numeric_limits<float>::infinity();

inline std::vector<host::SimdLevel> supported_levels() {
  std::vector<host::SimdLevel> levels;
  for (const auto level :
       {host::SimdLevel::baseline, host::SimdLevel::avx2, host::SimdLevel::avx512}) {
    if (host::simd_level_supported(level)) {
      levels.push_back(level);
    }
  }
  return levels;
}

inline uint32_t bits_of(float x) { return std::bit_cast<uint32_t>(x); }

/// Equal bits; any NaN equals any NaN.
inline bool same(float a, float b) { return bits_of(a) == bits_of(b) || (a != a && b != b); }

/// Swizzled rows of 64 bf16 that start `offset` bytes into 1024-aligned memory.
class Tile {
 public:
  explicit Tile(uint32_t rows, std::size_t offset = 0) : memory_(rows * kRowBytes + offset + 1024) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    start_ = (1024 - address % 1024) % 1024 + offset;
  }

  std::byte* data() { return memory_.data() + start_; }
  const std::byte* data() const { return memory_.data() + start_; }

  float get(uint32_t row, uint32_t col) const {
    bf16 value;
    std::memcpy(&value, data() + element_offset(row, col), sizeof value);
    return to_float(value);
  }
  void set(uint32_t row, uint32_t col, float x) {
    const bf16 value = to_bf16(x);
    std::memcpy(data() + element_offset(row, col), &value, sizeof value);
  }
  void fill_row(uint32_t row, float x) {
    for (uint32_t col = 0; col < kPanelCols; ++col) {
      set(row, col, x);
    }
  }

 private:
  std::vector<std::byte> memory_;
  std::size_t start_;
};

/// Values of both signs over 2^-spread .. 2^spread, so that any change of order changes bits.
class Random {
 public:
  explicit Random(uint32_t seed) : engine_(seed) {}

  float value(int spread = 3) {
    const float mantissa = 1.0f + static_cast<float>(engine_() >> 8) * 0x1p-24f;
    const int exponent = static_cast<int>(engine_() % (2 * spread + 1)) - spread;
    const float magnitude = std::ldexp(mantissa, exponent);
    return (engine_() & 1u) != 0 ? -magnitude : magnitude;
  }
  uint32_t below(uint32_t n) { return engine_() % n; }
  uint32_t bits() { return engine_(); }

  void fill(Tile& tile, uint32_t rows, int spread = 3) {
    for (uint32_t row = 0; row < rows; ++row) {
      for (uint32_t col = 0; col < kPanelCols; ++col) {
        tile.set(row, col, value(spread));
      }
    }
  }
  std::vector<float> values(std::size_t n, int spread = 3) {
    std::vector<float> out(n);
    for (float& x : out) {
      x = value(spread);
    }
    return out;
  }

 private:
  std::mt19937 engine_;
};

template <class... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Reports the first position where the bits differ.
inline void check_same(const std::vector<float>& seen, const std::vector<float>& expected,
                       const std::string& what) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (!same(seen[i], expected[i])) {
      report_failure(
          __FILE__, __LINE__,
          text(what, ": element ", i, ": expected ", show(expected[i]), ", got ", show(seen[i])));
      return;
    }
  }
}

}  // namespace terrazzo::testing
