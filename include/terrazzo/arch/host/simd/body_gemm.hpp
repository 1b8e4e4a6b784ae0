// gemm_panel: one k tile of 64, fp32 accumulators in memory.
//
// A lane holds one output column (a weight row), so its fma chain runs over ascending k whatever
// the blocking. Weight rows become lanes by in-register transposes of chunks: 4 x 4 words, a word
// being the elements 2p and 2p + 1 of a row, and a shift or a mask turns either into fp32.
//   few rows:  weights go from memory through the transpose into the multiply (a stream)
//   many rows: kPackedCols columns are transposed into scratch once, and reused by all rows
#if defined(TERRAZZO_SIMD_BODIES)

inline constexpr uint32_t kCacheLineBytes = 64;
inline constexpr uint32_t kPrefetchBytes = 8192;
inline constexpr uint32_t kStreamRows = 8;  // most rows of the streaming path
// Accumulators, and vectors of columns side by side in it: enough chains to hide the latency of
// fma, and few rows, because memory is read best nearly in order. Then the rows of the packed path.
#if TERRAZZO_SIMD_LANES == 16
inline constexpr uint32_t kStreamSums = 8;
inline constexpr uint32_t kStreamGroups = 1;
inline constexpr uint32_t kPackedRows = 8;
// Up to this many rows memory is the limit, and shorter vectors stream better (17 and 13 GB/s).
inline constexpr uint32_t kNarrowRows = 2;
#elif TERRAZZO_SIMD_LANES == 8
inline constexpr uint32_t kStreamSums = 8;
inline constexpr uint32_t kStreamGroups = 2;
inline constexpr uint32_t kPackedRows = 6;
#else
inline constexpr uint32_t kStreamSums = 8;
inline constexpr uint32_t kStreamGroups = 4;
inline constexpr uint32_t kPackedRows = 4;
#endif

/// pairs[p] lane l = elements 2p and 2p + 1 of chunk `chunk` of row first + l of b; rows beyond
/// `last` are replaced by it.
[[gnu::always_inline]] inline void load_pairs(vu (&pairs)[4], const std::byte* b, uint32_t first,
                                              uint32_t chunk, uint32_t last) {
  pairs[0] = load_chunks(b, first + 0, chunk, last);
  pairs[1] = load_chunks(b, first + 1, chunk, last);
  pairs[2] = load_chunks(b, first + 2, chunk, last);
  pairs[3] = load_chunks(b, first + 3, chunk, last);
  transpose_words(pairs);
}

[[gnu::always_inline]] inline vf even_of(vu pairs) { return as_f(pairs << 16); }
[[gnu::always_inline]] inline vf odd_of(vu pairs) { return as_f(pairs & 0xffff0000u); }

/// Row `col` of b rounded down to whole swizzle periods of 8 rows, and what that leaves over (0
/// where a vector is not shorter than that).
[[gnu::always_inline]] inline const std::byte* period_start(const std::byte* b, uint32_t col) {
  return b + col / 8 * 8 * kRowBytes;
}
[[gnu::always_inline]] inline uint32_t period_rest(uint32_t col) {
  return kLanes < 8 ? col % 8 : 0;
}

/// acc[r][0..n) of kRows rows and kGroups vectors of columns, of which the last may be cut short
/// (then kGroups is 1 and n < kLanes). a: [kRows][64] fp32. The columns are the rows from `first`
/// of b.
template <uint32_t kRows, uint32_t kGroups, bool kCut>
[[gnu::always_inline]] inline void stream_columns(float* acc, uint32_t ld, const float* a,
                                                  const std::byte* b, uint32_t first, uint32_t n) {
  const uint32_t last = first + (kCut ? n - 1 : kGroups * kLanes - 1);
  vf sum[kRows][kGroups];
#pragma GCC unroll 16
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (uint32_t g = 0; g < kGroups; ++g) {
      sum[r][g] = kCut ? load_first(acc + r * ld, n, 0.0f) : load(acc + r * ld + g * kLanes);
    }
  }
  for (uint32_t chunk = 0; chunk < kPanelCols / kChunkElems; ++chunk) {
    // An eighth of the bytes as far ahead as hides the latency of memory. Weights of successive
    // calls mostly follow each other; elsewhere this is a wasted hint, never a fault.
    constexpr uint32_t kShare = kGroups * kLanes * kRowBytes / (kPanelCols / kChunkElems);
#pragma GCC unroll 16
    for (uint32_t line = 0; line < kShare; line += kCacheLineBytes) {
      __builtin_prefetch(b + kPrefetchBytes + chunk * kShare + line);
    }
#pragma GCC unroll 16
    for (uint32_t g = 0; g < kGroups; ++g) {
      vu pairs[4];
      load_pairs(pairs, b, first + g * kLanes, chunk, last);
      const float* a_chunk = a + chunk * kChunkElems;
#pragma GCC unroll 4
      for (uint32_t p = 0; p < 4; ++p) {
        const vf even = even_of(pairs[p]);
        const vf odd = odd_of(pairs[p]);
#pragma GCC unroll 16
        for (uint32_t r = 0; r < kRows; ++r) {
          const float* x = a_chunk + r * kPanelCols + 2 * p;
          sum[r][g] = fma_bf16(splat(x[0]), even, sum[r][g]);
        }
#pragma GCC unroll 16
        for (uint32_t r = 0; r < kRows; ++r) {
          const float* x = a_chunk + r * kPanelCols + 2 * p;
          sum[r][g] = fma_bf16(splat(x[1]), odd, sum[r][g]);
        }
      }
    }
  }
#pragma GCC unroll 16
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (uint32_t g = 0; g < kGroups; ++g) {
      if constexpr (kCut) {
        store_first(acc + r * ld, sum[r][g], n);
      } else {
        store(acc + r * ld + g * kLanes, sum[r][g]);
      }
    }
  }
}

template <uint32_t kRows>
inline void stream_rows(float* acc, uint32_t ld, const float* a, const std::byte* b,
                        uint32_t cols) {
  constexpr uint32_t kFit = kStreamSums < 2 * kRows ? 1 : kStreamSums < 4 * kRows ? 2 : 4;
  constexpr uint32_t kGroups = kFit < kStreamGroups ? kFit : kStreamGroups;
  uint32_t col = 0;
  for (; col + kGroups * kLanes <= cols; col += kGroups * kLanes) {
    stream_columns<kRows, kGroups, false>(acc + col, ld, a, period_start(b, col), period_rest(col),
                                          0);
  }
  for (; col + kLanes <= cols; col += kLanes) {
    stream_columns<kRows, 1, false>(acc + col, ld, a, period_start(b, col), period_rest(col), 0);
  }
  if (col < cols) {
    stream_columns<kRows, 1, true>(acc + col, ld, a, period_start(b, col), period_rest(col),
                                   cols - col);
  }
}

inline void stream_panel(float* acc, uint32_t ld, const float* a, const std::byte* b, uint32_t rows,
                         uint32_t cols) {
  switch (rows) {
    case 1:
      return stream_rows<1>(acc, ld, a, b, cols);
    case 2:
      return stream_rows<2>(acc, ld, a, b, cols);
    case 3:
      return stream_rows<3>(acc, ld, a, b, cols);
    case 4:
      return stream_rows<4>(acc, ld, a, b, cols);
    case 5:
      return stream_rows<5>(acc, ld, a, b, cols);
    case 6:
      return stream_rows<6>(acc, ld, a, b, cols);
    case 7:
      return stream_rows<7>(acc, ld, a, b, cols);
    default:
      return stream_rows<8>(acc, ld, a, b, cols);
  }
}

/// kRows rows by two vectors of columns. a: [kRows][64] fp32, b: [64][kPackedCols] fp32.
template <uint32_t kRows>
[[gnu::always_inline]] inline void packed_block(float* acc, uint32_t ld, const float* a,
                                                const float* b) {
  vf sum[kRows][2];
#pragma GCC unroll 16
  for (uint32_t r = 0; r < kRows; ++r) {
    sum[r][0] = load(acc + r * ld);
    sum[r][1] = load(acc + r * ld + kLanes);
  }
#pragma GCC unroll 2
  for (uint32_t k = 0; k < kPanelCols; ++k) {
    const vf b0 = load(b + k * kPackedCols);
    const vf b1 = load(b + k * kPackedCols + kLanes);
#pragma GCC unroll 16
    for (uint32_t r = 0; r < kRows; ++r) {
      const vf x = splat(a[r * kPanelCols + k]);
      sum[r][0] = fma_bf16(x, b0, sum[r][0]);
      sum[r][1] = fma_bf16(x, b1, sum[r][1]);
    }
  }
#pragma GCC unroll 16
  for (uint32_t r = 0; r < kRows; ++r) {
    store(acc + r * ld, sum[r][0]);
    store(acc + r * ld + kLanes, sum[r][1]);
  }
}

inline void packed_columns(float* acc, uint32_t ld, const float* a, const float* b, uint32_t rows) {
  for (uint32_t col = 0; col < kPackedCols; col += 2 * kLanes) {
    uint32_t i = 0;
    for (; i + kPackedRows <= rows; i += kPackedRows) {
      packed_block<kPackedRows>(acc + i * ld + col, ld, a + i * kPanelCols, b + col);
    }
    for (; i + 4 <= rows; i += 4) {
      packed_block<4>(acc + i * ld + col, ld, a + i * kPanelCols, b + col);
    }
    for (; i < rows; ++i) {
      packed_block<1>(acc + i * ld + col, ld, a + i * kPanelCols, b + col);
    }
  }
}

/// kPackedCols weight rows of 64 bf16 -> [64][kPackedCols] fp32.
inline void pack_columns(float* packed, const std::byte* b) {
  for (uint32_t col = 0; col < kPackedCols; col += kLanes) {
    for (uint32_t chunk = 0; chunk < kPanelCols / kChunkElems; ++chunk) {
      vu pairs[4];
      load_pairs(pairs, b, col, chunk, kPackedCols - 1);
      float* out = packed + chunk * kChunkElems * kPackedCols + col;
#pragma GCC unroll 4
      for (uint32_t p = 0; p < 4; ++p) {
        store(out + 2 * p * kPackedCols, even_of(pairs[p]));
        store(out + (2 * p + 1) * kPackedCols, odd_of(pairs[p]));
      }
    }
  }
}

inline void gemm_panel(float* acc, uint32_t ld, const std::byte* a, const std::byte* b,
                       uint32_t rows, uint32_t cols) {
  KernelScratch& scratch = kernel_scratch();
  for (uint32_t i = 0; i < rows; ++i) {
    for (uint32_t k = 0; k < kPanelCols; k += kLanes) {
      store(scratch.a + i * kPanelCols + k, load_tile(a, i, k));
    }
  }
#if TERRAZZO_SIMD_LANES == 16
  if (rows <= kNarrowRows) {
    simd_avx2::stream_panel(acc, ld, scratch.a, b, rows, cols);
    return;
  }
#endif
  if (rows <= kStreamRows) {
    stream_panel(acc, ld, scratch.a, b, rows, cols);
    return;
  }
  uint32_t col = 0;
  for (; col + kPackedCols <= cols; col += kPackedCols) {
    pack_columns(scratch.b, b + col * kRowBytes);
    packed_columns(acc + col, ld, scratch.a, scratch.b, rows);
  }
  for (uint32_t i = 0; col < cols && i < rows; i += kStreamRows) {
    const uint32_t here = rows - i < kStreamRows ? rows - i : kStreamRows;
    stream_panel(acc + i * ld + col, ld, scratch.a + i * kPanelCols, b + col * kRowBytes, here,
                 cols - col);
  }
}

#endif  // TERRAZZO_SIMD_BODIES
