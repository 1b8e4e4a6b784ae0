// Vectors of kLanes numbers and the few operations on them that the kernels need.
#if defined(TERRAZZO_SIMD_BODIES)

inline constexpr uint32_t kLanes = TERRAZZO_SIMD_LANES;
inline constexpr uint32_t kBlock = 16;               // elements whose partial sums stay apart
inline constexpr uint32_t kParts = kBlock / kLanes;  // vectors of a block, at every level

typedef float vf __attribute__((vector_size(kLanes * 4)));
typedef int32_t vi __attribute__((vector_size(kLanes * 4)));
typedef uint32_t vu __attribute__((vector_size(kLanes * 4)));
typedef uint16_t vh __attribute__((vector_size(kLanes * 2)));

[[gnu::always_inline]] inline vu as_u(vf x) { return reinterpret_cast<vu>(x); }
[[gnu::always_inline]] inline vu as_u(vi x) { return reinterpret_cast<vu>(x); }
[[gnu::always_inline]] inline vf as_f(vu x) { return reinterpret_cast<vf>(x); }

[[gnu::always_inline]] inline vf splat(float x) { return x - vf{}; }  // keeps -0
[[gnu::always_inline]] inline vu splat(uint32_t x) { return x + vu{}; }

[[gnu::always_inline]] inline vu lane_ids() {
  vu ids;
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    ids[lane] = lane;
  }
  return ids;
}

template <class V>
[[gnu::always_inline]] inline V load_as(const void* p) {
  V x;
  __builtin_memcpy(&x, p, sizeof x);
  return x;
}
[[gnu::always_inline]] inline vf load(const float* p) { return load_as<vf>(p); }
[[gnu::always_inline]] inline void store(float* p, vf x) { __builtin_memcpy(p, &x, sizeof x); }

/// The first n <= kLanes numbers of p; the other lanes are `fill`.
[[gnu::always_inline]] inline vf load_first(const float* p, uint32_t n, float fill) {
  if (n >= kLanes) {
    return load(p);
  }
  vf x = splat(fill);
  __builtin_memcpy(&x, p, n * sizeof(float));
  return x;
}
[[gnu::always_inline]] inline void store_first(float* p, vf x, uint32_t n) {
  if (n >= kLanes) {
    store(p, x);
  } else {
    __builtin_memcpy(p, &x, n * sizeof(float));
  }
}

/// a * b + c, rounded once.
[[gnu::always_inline]] inline vf fma(vf a, vf b, vf c) {
#if TERRAZZO_SIMD_LANES == 16
  return _mm512_fmadd_ps(a, b, c);
#elif TERRAZZO_SIMD_LANES == 8
  return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  return vfmaq_f32(c, a, b);
#else
  vf r;
  for (uint32_t lane = 0; lane < kLanes; ++lane) {
    r[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
  }
  return r;
#endif
}

/// a * b + c for a and b that are bf16 values: their product has 16 significant bits, so it is
/// exact (unless it is below 2^-126) and one rounding or two make no difference.
[[gnu::always_inline]] inline vf fma_bf16(vf a, vf b, vf c) {
#if TERRAZZO_SIMD_LANES == 4 && !defined(__aarch64__)
  return a * b + c;
#else
  return fma(a, b, c);
#endif
}

/// One fma of a lane, with the bits of the vector form.
[[gnu::always_inline]] inline float fma(float a, float b, float c) {
  return fma(splat(a), splat(b), splat(c))[0];
}

/// The larger one; b where a is a NaN.
[[gnu::always_inline]] inline vf larger(vf a, vf b) { return a > b ? a : b; }

/// kLanes consecutive bf16 as fp32.
[[gnu::always_inline]] inline vf widen(vh x) {
#if TERRAZZO_SIMD_LANES == 16
  // The masked forms (here and below) are the ones that GCC does not warn about; no mask remains.
  return as_f(
      reinterpret_cast<vu>(_mm512_maskz_cvtepu16_epi32(0xffff, reinterpret_cast<__m256i>(x)))
      << 16);
#elif TERRAZZO_SIMD_LANES == 8
  return as_f(reinterpret_cast<vu>(_mm256_cvtepu16_epi32(reinterpret_cast<__m128i>(x))) << 16);
#else
  return as_f(__builtin_convertvector(x, vu) << 16);
#endif
}

/// The low halves of x.
[[gnu::always_inline]] inline vh narrow(vu x) {
#if TERRAZZO_SIMD_LANES == 16
  return reinterpret_cast<vh>(_mm512_maskz_cvtepi32_epi16(0xffff, reinterpret_cast<__m512i>(x)));
#else
  return __builtin_convertvector(x, vh);
#endif
}

/// bf16 bits of x in the low halves: round to nearest even, a NaN stays a quiet NaN.
[[gnu::always_inline]] inline vu round_bits(vf x) {
  const vu bits = as_u(x);
  const vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const vu quiet = (bits >> 16) | 0x40u;
  return x == x ? rounded : quiet;
}

/// x rounded to bf16, as fp32.
[[gnu::always_inline]] inline vf round_to_bf16(vf x) { return as_f(round_bits(x) << 16); }

/// Columns [col, col + kLanes) of row `row` of a swizzled tile; col is a multiple of kLanes.
[[gnu::always_inline]] inline vf load_tile(const std::byte* tile, uint32_t row, uint32_t col) {
#if TERRAZZO_SIMD_LANES == 16
  const auto low = load_as<__m128i>(tile + element_offset(row, col));
  const auto high = load_as<__m128i>(tile + element_offset(row, col + kChunkElems));
  return widen(reinterpret_cast<vh>(_mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1)));
#else
  return widen(load_as<vh>(tile + element_offset(row, col)));
#endif
}

/// Chunk `chunk` of row `row`, or of row `last` if that is less.
[[gnu::always_inline]] inline const std::byte* at_row(const std::byte* b, uint32_t chunk,
                                                      uint32_t last, uint32_t row) {
  return b + chunk_offset(row < last ? row : last, chunk);
}

/// Chunk `chunk` of the rows first, first + 4, first + 8, ... (a row each 128 bits).
[[gnu::always_inline]] inline vu load_chunks(const std::byte* b, uint32_t first, uint32_t chunk,
                                             uint32_t last) {
#if TERRAZZO_SIMD_LANES == 16
  __m512i x = _mm512_castsi128_si512(load_as<__m128i>(at_row(b, chunk, last, first)));
  x = _mm512_maskz_inserti32x4(0xffff, x, load_as<__m128i>(at_row(b, chunk, last, first + 4)), 1);
  x = _mm512_maskz_inserti32x4(0xffff, x, load_as<__m128i>(at_row(b, chunk, last, first + 8)), 2);
  x = _mm512_maskz_inserti32x4(0xffff, x, load_as<__m128i>(at_row(b, chunk, last, first + 12)), 3);
  return reinterpret_cast<vu>(x);
#elif TERRAZZO_SIMD_LANES == 8
  const __m256i x = _mm256_castsi128_si256(load_as<__m128i>(at_row(b, chunk, last, first)));
  return reinterpret_cast<vu>(
      _mm256_inserti128_si256(x, load_as<__m128i>(at_row(b, chunk, last, first + 4)), 1));
#else
  return load_as<vu>(at_row(b, chunk, last, first));
#endif
}

#if TERRAZZO_SIMD_LANES == 16
#define TERRAZZO_SIMD_PAIR_LOW 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define TERRAZZO_SIMD_PAIR_HIGH 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define TERRAZZO_SIMD_QUAD_LOW 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define TERRAZZO_SIMD_QUAD_HIGH 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#elif TERRAZZO_SIMD_LANES == 8
#define TERRAZZO_SIMD_PAIR_LOW 0, 8, 1, 9, 4, 12, 5, 13
#define TERRAZZO_SIMD_PAIR_HIGH 2, 10, 3, 11, 6, 14, 7, 15
#define TERRAZZO_SIMD_QUAD_LOW 0, 1, 8, 9, 4, 5, 12, 13
#define TERRAZZO_SIMD_QUAD_HIGH 2, 3, 10, 11, 6, 7, 14, 15
#else
#define TERRAZZO_SIMD_PAIR_LOW 0, 4, 1, 5
#define TERRAZZO_SIMD_PAIR_HIGH 2, 6, 3, 7
#define TERRAZZO_SIMD_QUAD_LOW 0, 1, 4, 5
#define TERRAZZO_SIMD_QUAD_HIGH 2, 3, 6, 7
#endif

/// Transposes 4 x 4 words within each 128 bits: x[i] word j becomes x[j] word i.
[[gnu::always_inline]] inline void transpose_words(vu (&x)[4]) {
  const vu low01 = __builtin_shufflevector(x[0], x[1], TERRAZZO_SIMD_PAIR_LOW);
  const vu high01 = __builtin_shufflevector(x[0], x[1], TERRAZZO_SIMD_PAIR_HIGH);
  const vu low23 = __builtin_shufflevector(x[2], x[3], TERRAZZO_SIMD_PAIR_LOW);
  const vu high23 = __builtin_shufflevector(x[2], x[3], TERRAZZO_SIMD_PAIR_HIGH);
  x[0] = __builtin_shufflevector(low01, low23, TERRAZZO_SIMD_QUAD_LOW);
  x[1] = __builtin_shufflevector(low01, low23, TERRAZZO_SIMD_QUAD_HIGH);
  x[2] = __builtin_shufflevector(high01, high23, TERRAZZO_SIMD_QUAD_LOW);
  x[3] = __builtin_shufflevector(high01, high23, TERRAZZO_SIMD_QUAD_HIGH);
}

#undef TERRAZZO_SIMD_PAIR_LOW
#undef TERRAZZO_SIMD_PAIR_HIGH
#undef TERRAZZO_SIMD_QUAD_LOW
#undef TERRAZZO_SIMD_QUAD_HIGH

struct Add {
  [[gnu::always_inline]] vf operator()(vf a, vf b) const { return a + b; }
};
struct Larger {
  [[gnu::always_inline]] vf operator()(vf a, vf b) const { return larger(a, b); }
};

/// Lane 0 of x combined over its lanes, halves first.
template <class Combine>
[[gnu::always_inline]] inline float reduce_lanes(vf x, Combine combine) {
  // clang-format off
#if TERRAZZO_SIMD_LANES == 16
  x = combine(x, __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15,
                                         0, 1, 2, 3, 4, 5, 6, 7));
  x = combine(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11));
  x = combine(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
  x = combine(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
#elif TERRAZZO_SIMD_LANES == 8
  x = combine(x, __builtin_shufflevector(x, x, 4, 5, 6, 7, 0, 1, 2, 3));
  x = combine(x, __builtin_shufflevector(x, x, 2, 3, 0, 1, 6, 7, 4, 5));
  x = combine(x, __builtin_shufflevector(x, x, 1, 0, 3, 2, 5, 4, 7, 6));
#else
  x = combine(x, __builtin_shufflevector(x, x, 2, 3, 0, 1));
  x = combine(x, __builtin_shufflevector(x, x, 1, 0, 3, 2));
#endif
  // clang-format on
  return x[0];
}

/// A block combined in one fixed tree at every level: lanes 8 apart, then 4, 2 and 1.
template <class Combine>
[[gnu::always_inline]] inline float reduce_block(const vf (&parts)[kParts], Combine combine) {
#if TERRAZZO_SIMD_LANES == 16
  return reduce_lanes(parts[0], combine);
#elif TERRAZZO_SIMD_LANES == 8
  return reduce_lanes(combine(parts[0], parts[1]), combine);
#else
  return reduce_lanes(combine(combine(parts[0], parts[2]), combine(parts[1], parts[3])), combine);
#endif
}

#endif  // TERRAZZO_SIMD_BODIES
