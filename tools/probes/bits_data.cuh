// Operands of bits.cu: seven distributions, the same on every machine.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "probe.cuh"

namespace probe {

constexpr int kRows = 768;   // rows of A and of B: a multiple of every N
constexpr int kDepth = 256;  // K
constexpr size_t kOutputs = size_t(kRows) * kRows;

struct Operands {
  std::vector<uint16_t> a;  // [kRows][depth]
  std::vector<uint16_t> b;
};

constexpr const char* kDistributions[] = {"normal",     "positive",  "wide",   "sparse",
                                          "cancelling", "subnormal", "special"};
constexpr int kNumDistributions = 7;

inline uint16_t pattern(bool negative, int biased_exponent, uint32_t mantissa) {
  return uint16_t((negative ? 0x8000 : 0) | (biased_exponent << 7) | (mantissa & 0x7F));
}

inline uint16_t draw(const std::string& name, int matrix, int row, int k) {
  uint64_t key = (uint64_t(matrix) << 60) | (uint64_t(row) << 24) | uint64_t(k);
  uint64_t r = mix(key ^ 0xABCDEF);
  bool negative = (r & 1) != 0;
  uint32_t mantissa = (r >> 1) & 0x7F;
  int range = int((r >> 8) & 0xFFFF);
  if (name == "positive")
    return pattern(false, 119 + range % 8, mantissa);
  if (name == "wide" || name == "sparse") {
    if (name == "sparse" && ((r >> 40) & 1))
      return negative ? 0x8000 : 0;
    return pattern(negative, 127 - 12 + range % 25, mantissa);
  }
  if (name == "cancelling") {
    // B repeats A's partner with the opposite sign: inside a k16, and half of K later.
    int partner = k % 2 == 1 ? k - 1 : (k >= kDepth / 2 ? k - kDepth / 2 : k);
    uint64_t rp = mix((uint64_t(matrix) << 60) | (uint64_t(row) << 24) | uint64_t(partner));
    uint16_t value = pattern(rp & 1, 120 + int((rp >> 8) % 14), (rp >> 1) & 0x7F);
    if (partner != k && matrix == 1) {
      value ^= 0x8000;
      if ((r >> 50) % 4 == 0)
        value ^= 1;
    }
    return value;
  }
  if (name == "subnormal") {
    if (matrix == 0)
      return pattern(negative, range % (2 + row % 48), mantissa);
    return pattern(negative, 90 + range % 40, mantissa);
  }
  uint16_t value = bf16_of_float(near_normal(key));
  if (name == "special") {
    uint32_t kind = (r >> 40) & 0xFFFF;
    if (kind < 16)
      return pattern(negative, 255, 0);
    if (kind < 24)
      return pattern(negative, 255, mantissa | 1);
    if (kind < 600)
      return negative ? 0x8000 : 0;
    if (row % 3 == 0)
      return pattern(negative, 185 + range % 10, mantissa);
  }
  return value;
}

inline Operands make_operands(const std::string& name, int depth) {
  Operands result{std::vector<uint16_t>(size_t(kRows) * depth),
                  std::vector<uint16_t>(size_t(kRows) * depth)};
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < depth; ++k) {
      result.a[size_t(row) * depth + k] = draw(name, 0, row, k);
      result.b[size_t(row) * depth + k] = draw(name, 1, row, k);
    }
  }
  return result;
}

inline std::vector<uint16_t> permuted(const std::vector<uint16_t>& x,
                                      const std::function<int(int)>& source) {
  std::vector<uint16_t> result(x.size());
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < kDepth; ++k) {
      result[size_t(row) * kDepth + k] = x[size_t(row) * kDepth + source(k)];
    }
  }
  return result;
}

}  // namespace probe
