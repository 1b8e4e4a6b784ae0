// Vectors of kLanes numbers and the few operations on them that the kernels need.
#if defined(TERRAZZO_SIMD_BODIES)

inline constexpr uint32_t kLanes = TERRAZZO_SIMD_LANES;
inline constexpr uint32_t kBlock = 16;                // elements whose partial sums stay apart
inline constexpr uint32_t kParts = kBlock / kLanes;   // vectors of a block, at every level

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

/// a * b + c for a and b that are bf16 values: their product has 16 significant bits, so it is exact
/// (unless it is below 2^-126) and one rounding or two make no difference.
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
  return as_f(__builtin_convertvector(x, vu) << 16);
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
  vh x;
  constexpr uint32_t kPiece = kLanes < kChunkElems ? kLanes : kChunkElems;  // within a chunk
  for (uint32_t piece = 0; piece < kLanes; piece += kPiece) {
    __builtin_memcpy(reinterpret_cast<std::byte*>(&x) + piece * sizeof(bf16),
                     tile + element_offset(row, col + piece), kPiece * sizeof(bf16));
  }
  return widen(x);
}

/// Sums and maxima of a block in one fixed tree: lanes 8 apart, then 4, 2 and 1.
template <class Combine>
[[gnu::always_inline]] inline float reduce_block(const vf (&parts)[kParts], Combine combine) {
  float x[kBlock];
  __builtin_memcpy(x, parts, sizeof x);
  for (uint32_t apart = kBlock / 2; apart > 0; apart /= 2) {
    for (uint32_t i = 0; i < apart; ++i) {
      x[i] = combine(x[i], x[i + apart]);
    }
  }
  return x[0];
}

struct Add {
  float operator()(float a, float b) const { return a + b; }
};
struct Larger {
  float operator()(float a, float b) const { return a > b ? a : b; }
};

#endif  // TERRAZZO_SIMD_BODIES
