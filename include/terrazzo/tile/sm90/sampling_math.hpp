// Arithmetic of the sampler, one rounding at a time, in the order of the host machine's SIMD
// bodies: a logit has the same key, and the same weight, on both machines and in tiles of every
// shape.
#pragma once

#include <bit>
#include <cstdint>
#include <limits>

#include "terrazzo/core/noise.hpp"
#include "terrazzo/tile/sampling.hpp"

namespace terrazzo::sm90 {

/// 2^x: x = n + f with |f| <= 1/2, 2^f = 1 + f Q(f); 2^n in two factors so that only the last
/// product rounds where the result is subnormal.
__device__ __forceinline__ float exp2_poly(float x) {
  constexpr float kRoundMagic = 0x1.8p+23f;  // adding it rounds to an integer in the low bits
  x = x < -151.0f ? -151.0f : x;             // not fmaxf: a NaN stays
  x = x > 129.0f ? 129.0f : x;
  const float shifted = __fadd_rn(x, kRoundMagic);
  const float f = __fsub_rn(x, __fsub_rn(shifted, kRoundMagic));
  const auto n =
      static_cast<int32_t>(__float_as_uint(shifted) - std::bit_cast<uint32_t>(kRoundMagic));
  float q = 0x1.41fbbcp-13f;
  q = __fmaf_rn(q, f, 0x1.5f3e52p-10f);
  q = __fmaf_rn(q, f, 0x1.3b2d4cp-7f);
  q = __fmaf_rn(q, f, 0x1.c6aee8p-5f);
  q = __fmaf_rn(q, f, 0x1.ebfbdcp-3f);
  q = __fmaf_rn(q, f, 0x1.62e43p-1f);
  const float power = __fmaf_rn(q, f, 1.0f);
  const int32_t half = n >> 1;
  const float scale0 = __uint_as_float(static_cast<uint32_t>(half + 127) << 23);
  const float scale1 = __uint_as_float(static_cast<uint32_t>(n - half + 127) << 23);
  return __fmul_rn(__fmul_rn(power, scale0), scale1);
}

/// log(2^e * (1 + f)) with sqrt(1/2) <= 1 + f < sqrt(2): f - f^2 / 2 + f^3 P(f) + e log(2).
__device__ __forceinline__ float log_from_parts(float f, float e) {
  constexpr float kLn2High = 0x1.62e4p-1f;  // e * kLn2High is exact
  constexpr float kLn2Low = 1.4286068e-06f;
  float p = 0x1.1457aap-4f;
  p = __fmaf_rn(p, f, -0x1.de3c16p-4f);
  p = __fmaf_rn(p, f, 0x1.e6f06ap-4f);
  p = __fmaf_rn(p, f, -0x1.fc2208p-4f);
  p = __fmaf_rn(p, f, 0x1.233768p-3f);
  p = __fmaf_rn(p, f, -0x1.555c4ep-3f);
  p = __fmaf_rn(p, f, 0x1.99a4b6p-3f);
  p = __fmaf_rn(p, f, -0x1.000006p-2f);
  p = __fmaf_rn(p, f, 0x1.555548p-2f);
  const float square = __fmul_rn(f, f);
  float tail = __fmaf_rn(e, kLn2Low, __fmul_rn(__fmul_rn(square, f), p));
  tail = __fmaf_rn(square, -0.5f, tail);
  return __fmaf_rn(e, kLn2High, __fadd_rn(f, tail));
}

/// e and 1 + f of a positive normal x; returns 1 + f.
__device__ __forceinline__ float split_for_log(float x, float& e) {
  constexpr uint32_t kSqrtHalf = 0x3f3504f3u;  // so that 1 + f lies around 1
  const uint32_t shifted = __float_as_uint(x) - kSqrtHalf;
  e = __int2float_rn(static_cast<int32_t>(shifted) >> 23);
  return __uint_as_float((shifted & 0x007fffffu) + kSqrtHalf);
}

/// Natural logarithm of positive normal numbers.
__device__ __forceinline__ float log_poly(float x) {
  float e;
  const float mantissa = split_for_log(x, e);
  return log_from_parts(__fsub_rn(mantissa, 1.0f), e);
}

/// -log(-log(1 - v)) for v uniform in (0, 1) made of 31 bits. Large noise comes from small v, where
/// v keeps its relative precision and f = -v is exact; at the other end v stops short of 1.
__device__ __forceinline__ float gumbel_from_bits(uint32_t bits) {
  constexpr float kMost = 1.0f - 0x1p-24f;
  float v = __fmaf_rn(__int2float_rn(static_cast<int32_t>(bits >> 1)), 0x1p-31f, 0x1p-32f);
  v = v < kMost ? v : kMost;
  float e;
  const float mantissa = split_for_log(__fsub_rn(1.0f, v), e);
  const float f = e == 0.0f ? -v : __fsub_rn(mantissa, 1.0f);
  return -log_poly(-log_from_parts(f, e));
}

/// What a row's keys depend on besides the logit and the token.
struct KeyMaker {
  NoiseKey noise;
  float inv_temperature;
  bool greedy;

  explicit __device__ __forceinline__ KeyMaker(const LogitInfo& info)
      : noise(noise_key(info.seed, info.output_position)),
        inv_temperature(inverse_temperature(info)),
        greedy(!(info.temperature > 0.0f)) {}

  /// The largest is the row's token.
  __device__ __forceinline__ float key(float logit, uint32_t id) const {
    return greedy ? logit
                  : __fmaf_rn(logit, inv_temperature, gumbel_from_bits(noise_bits(noise, id)));
  }
};

}  // namespace terrazzo::sm90
