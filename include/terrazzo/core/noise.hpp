// Counter-based noise of the sampler: 32 bits from (seed, output position, token id), no state.
#pragma once

#include <cstdint>

#include "terrazzo/core/config.hpp"

namespace terrazzo {

/// What (seed, output position) contribute; the same for all token ids of a row.
struct NoiseKey {
  uint32_t first;
  uint32_t second;
};

// Odd multipliers with no pattern in their bits; tests measure avalanche and frequencies.
inline constexpr uint32_t kNoiseMul0 = 0x9a35c7ebu;
inline constexpr uint32_t kNoiseMul1 = 0xd6e8a24fu;
inline constexpr uint32_t kNoiseMul2 = 0x7b1f94adu;
inline constexpr uint32_t kNoiseMul3 = 0xc3a59e35u;

/// A bijection of 64 bits in which each input bit flips about half of the output bits.
constexpr TERRAZZO_FN uint64_t noise_mix64(uint64_t x) {
  x ^= x >> 32;
  x *= 0xd3c2a94f165b8e6dull;
  x ^= x >> 29;
  x *= 0x9e6b7d35c8f1a243ull;
  x ^= x >> 32;
  x *= 0xb5a3c8e97d4f1265ull;
  x ^= x >> 30;
  return x;
}

constexpr TERRAZZO_FN NoiseKey noise_key(uint64_t seed, uint32_t position) {
  const uint64_t mixed = noise_mix64(noise_mix64(seed + 0x6a5d39c4e1f08b27ull) + position);
  return {static_cast<uint32_t>(mixed), static_cast<uint32_t>(mixed >> 32)};
}

/// 32 uniform bits; for a fixed key a bijection of the token id.
constexpr TERRAZZO_FN uint32_t noise_bits(NoiseKey key, uint32_t token_id) {
  uint32_t x = token_id ^ key.first;
  x ^= x >> 16;
  x *= kNoiseMul0;
  x ^= x >> 15;
  x *= kNoiseMul1;
  x ^= x >> 16;
  x += key.second;
  x ^= x >> 15;
  x *= kNoiseMul2;
  x ^= x >> 17;
  x *= kNoiseMul3;
  x ^= x >> 15;
  return x;
}

}  // namespace terrazzo
