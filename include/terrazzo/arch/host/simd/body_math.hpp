// exp2 and log by polynomials of our own (weighted minimax fits), and their row forms.
#if defined(TERRAZZO_SIMD_BODIES)

inline constexpr float kLog2E = 0x1.715476p+0f;
inline constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// 2^x: x = n + f with |f| <= 1/2, 2^f = 1 + f Q(f); 2^n in two factors so that only the last
/// product rounds where the result is subnormal.
[[gnu::always_inline]] inline vf exp2_vector(vf x) {
  constexpr float kRoundMagic = 0x1.8p+23f;  // adding it rounds to an integer in the low bits
  x = x < -151.0f ? splat(-151.0f) : x;      // below -150 the result rounds to 0
  x = x > 129.0f ? splat(129.0f) : x;
  const vf shifted = x + kRoundMagic;
  const vf f = x - (shifted - kRoundMagic);
  const vi n = reinterpret_cast<vi>(as_u(shifted) - std::bit_cast<uint32_t>(kRoundMagic));
  vf q = splat(0x1.41fbbcp-13f);
  q = fma(q, f, splat(0x1.5f3e52p-10f));
  q = fma(q, f, splat(0x1.3b2d4cp-7f));
  q = fma(q, f, splat(0x1.c6aee8p-5f));
  q = fma(q, f, splat(0x1.ebfbdcp-3f));
  q = fma(q, f, splat(0x1.62e43p-1f));
  const vf power = fma(q, f, splat(1.0f));
  const vi half = n >> 1;
  const vf scale0 = as_f(as_u(half + 127) << 23);
  const vf scale1 = as_f(as_u(n - half + 127) << 23);
  return power * scale0 * scale1;
}

/// log(2^e * (1 + f)) with sqrt(1/2) <= 1 + f < sqrt(2): f - f^2 / 2 + f^3 P(f) + e log(2).
[[gnu::always_inline]] inline vf log_from_parts(vf f, vf e) {
  constexpr float kLn2High = 0x1.62e4p-1f;  // e * kLn2High is exact
  constexpr float kLn2Low = 1.4286068e-06f;
  vf p = splat(0x1.1457aap-4f);
  p = fma(p, f, splat(-0x1.de3c16p-4f));
  p = fma(p, f, splat(0x1.e6f06ap-4f));
  p = fma(p, f, splat(-0x1.fc2208p-4f));
  p = fma(p, f, splat(0x1.233768p-3f));
  p = fma(p, f, splat(-0x1.555c4ep-3f));
  p = fma(p, f, splat(0x1.99a4b6p-3f));
  p = fma(p, f, splat(-0x1.000006p-2f));
  p = fma(p, f, splat(0x1.555548p-2f));
  const vf square = f * f;
  vf tail = fma(e, splat(kLn2Low), square * f * p);
  tail = fma(square, splat(-0.5f), tail);
  return fma(e, splat(kLn2High), f + tail);
}

/// e and 1 + f of a positive normal x; returns 1 + f.
[[gnu::always_inline]] inline vf split_for_log(vf x, vf& e) {
  constexpr uint32_t kSqrtHalf = 0x3f3504f3u;  // so that 1 + f lies around 1
  const vu shifted = as_u(x) - kSqrtHalf;
  const vi exponent = reinterpret_cast<vi>(shifted) >> 23;
  e = __builtin_convertvector(exponent, vf);
  return as_f((shifted & 0x007fffffu) + kSqrtHalf);
}

[[gnu::always_inline]] inline vf log_vector(vf x) {
  vf e;
  const vf mantissa = split_for_log(x, e);
  return log_from_parts(mantissa - 1.0f, e);
}

[[gnu::always_inline]] inline float exp2_one(float x) { return exp2_vector(splat(x))[0]; }

/// out[i] = map(i, n): vector by vector; the last one is loaded and stored in part.
template <class Map>
[[gnu::always_inline]] inline void map_row(float* out, uint32_t n, const Map& map) {
  for (uint32_t i = 0; i < n; i += kLanes) {
    const uint32_t here = n - i < kLanes ? n - i : kLanes;
    store_first(out + i, map.at(i, here), here);
  }
}

struct Exp2Map {
  const float* x;
  [[gnu::always_inline]] vf at(uint32_t i, uint32_t n) const {
    return exp2_vector(load_first(x + i, n, 0.0f));
  }
};
struct LogMap {
  const float* x;
  [[gnu::always_inline]] vf at(uint32_t i, uint32_t n) const {
    return log_vector(load_first(x + i, n, 1.0f));
  }
};

inline void exp2_row(float* out, const float* x, uint32_t n) { map_row(out, n, Exp2Map{x}); }
inline void log_row(float* out, const float* x, uint32_t n) { map_row(out, n, LogMap{x}); }

#endif  // TERRAZZO_SIMD_BODIES
