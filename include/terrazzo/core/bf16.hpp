// bfloat16 as 16 bits: the upper half of an fp32, rounded to nearest even.
#pragma once

#include <bit>
#include <cstdint>

#include "terrazzo/core/config.hpp"

namespace terrazzo {

struct bf16 {
  uint16_t bits;
};
static_assert(sizeof(bf16) == 2);

constexpr TERRAZZO_FN float to_float(bf16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

/// Round to nearest even; a NaN stays a (quiet) NaN.
constexpr TERRAZZO_FN bf16 to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  }
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

static_assert(to_bf16(1.0f).bits == 0x3f80);
static_assert(to_bf16(1.00390625f).bits == 0x3f80);  // a tie goes to the even neighbour

}  // namespace terrazzo
