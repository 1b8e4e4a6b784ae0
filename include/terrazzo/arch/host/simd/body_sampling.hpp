// Gumbel noise and row statistics for sampling.
#if defined(TERRAZZO_SIMD_BODIES)

/// core/noise.hpp's noise_bits for a vector of token ids.
[[gnu::always_inline]] inline vu noise_bits_vector(NoiseKey key, vu token_ids) {
  vu x = token_ids ^ key.first;
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

/// -log(-log(1 - v)) for v uniform in (0, 1) made of 31 bits. Large noise comes from small v, where
/// v keeps its relative precision and f = -v is exact; at the other end v stops short of 1.
[[gnu::always_inline]] inline vf gumbel_from_bits(vu bits) {
  const vf count = __builtin_convertvector(reinterpret_cast<vi>(bits >> 1), vf);
  vf v = fma(count, splat(0x1p-31f), splat(0x1p-32f));
  v = v < 1.0f - 0x1p-24f ? v : splat(1.0f - 0x1p-24f);
  vf e;
  const vf mantissa = split_for_log(1.0f - v, e);
  const vf f = e == 0.0f ? -v : mantissa - 1.0f;
  return -log_vector(-log_from_parts(f, e));
}

struct GumbelMap {
  NoiseKey key;
  uint32_t first_id;
  [[gnu::always_inline]] vf at(uint32_t i, uint32_t) const {
    return gumbel_from_bits(noise_bits_vector(key, lane_ids() + (first_id + i)));
  }
};
struct PerturbMap {
  GumbelMap noise;
  const float* logits;
  float inv_temperature;
  [[gnu::always_inline]] vf at(uint32_t i, uint32_t n) const {
    return fma(load_first(logits + i, n, 0.0f), splat(inv_temperature), noise.at(i, n));
  }
};

inline void gumbel_row(float* out, uint64_t seed, uint32_t position, uint32_t first_id,
                       uint32_t n) {
  map_row(out, n, GumbelMap{noise_key(seed, position), first_id});
}

inline void perturb_row(float* keys, const float* logits, float inv_temperature, uint64_t seed,
                        uint32_t position, uint32_t first_id, uint32_t n) {
  map_row(keys, n, PerturbMap{{noise_key(seed, position), first_id}, logits, inv_temperature});
}

inline MaxSumExp max_and_sum_exp_row(const float* values, uint32_t n) {
  vf largest[kParts];
  for (vf& part : largest) {
    part = splat(-kInfinity);
  }
  for (uint32_t i = 0; i < n; i += kLanes) {
    vf& part = largest[i / kLanes % kParts];
    part = larger(load_first(values + i, n - i, -kInfinity), part);
  }
  MaxSumExp result{reduce_block(largest, Larger{}), 0, 0.0f};
  while (result.index < n && values[result.index] != result.max) {
    ++result.index;
  }
  result.index = result.index < n ? result.index : 0;  // nothing but NaN
  // With -inf only, the differences to 0 keep the sum at 0 instead of NaN.
  const vf reference = splat(result.max == -kInfinity ? 0.0f : result.max);
  vf sums[kParts] = {};
  for (uint32_t i = 0; i < n; i += kLanes) {
    const vf x = load_first(values + i, n - i, -kInfinity);
    sums[i / kLanes % kParts] += exp2_vector((x - reference) * kLog2E);
  }
  result.sum = reduce_block(sums, Add{});
  return result;
}

#endif  // TERRAZZO_SIMD_BODIES
