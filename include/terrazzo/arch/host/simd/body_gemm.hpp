// gemm_panel: one k tile of 64, fp32 accumulators in memory.
//
// A lane holds one output column (a weight row), so a lane's fma chain runs over ascending k whatever
// the blocking. Weight rows are turned into lanes by in-register transposes of 8-element chunks.
#if defined(TERRAZZO_SIMD_BODIES)

struct GemmScratch {
  alignas(64) float a[kHalfRows * kPanelCols];      // A as fp32, row-major
  alignas(64) float b[kPanelCols * 2 * kLanes];     // [k][2 * kLanes columns]
};

/// pairs[p] lane l = elements 2p and 2p + 1 of chunk `chunk` of row first + l. Rows beyond `last` are
/// replaced by it. first is a multiple of 8.
[[gnu::always_inline]] inline void load_pairs(vu (&pairs)[4], const std::byte* b, uint32_t first,
                                              uint32_t chunk, uint32_t last) {
  // Part r holds the chunks of rows first + r, first + 4 + r, ... in its 128-bit groups.
  vu part[4];
  for (uint32_t r = 0; r < 4; ++r) {
    uint32_t words[kLanes];
    for (uint32_t group = 0; group < kLanes / 4; ++group) {
      const uint32_t wanted = first + 4 * group + r;
      const uint32_t row = wanted < last ? wanted : last;
      __builtin_memcpy(words + 4 * group, b + chunk_offset(row, chunk), kChunkBytes);
    }
    part[r] = load_as<vu>(words);
  }
  for (uint32_t p = 0; p < 4; ++p) {
    for (uint32_t lane = 0; lane < kLanes; ++lane) {
      pairs[p][lane] = part[lane % 4][lane / 4 * 4 + p];
    }
  }
}

[[gnu::always_inline]] inline vf even_of(vu pairs) { return as_f(pairs << 16); }
[[gnu::always_inline]] inline vf odd_of(vu pairs) { return as_f(pairs & 0xffff0000u); }

inline void gemm_panel(float* acc, uint32_t ld, const std::byte* a, const std::byte* b,
                       uint32_t rows, uint32_t cols) {
  GemmScratch scratch;
  for (uint32_t i = 0; i < rows; ++i) {
    for (uint32_t k = 0; k < kPanelCols; k += kLanes) {
      store(scratch.a + i * kPanelCols + k, load_tile(a, i, k));
    }
  }
  for (uint32_t col = 0; col < cols; col += kLanes) {
    const uint32_t n = cols - col < kLanes ? cols - col : kLanes;
    for (uint32_t chunk = 0; chunk < kPanelCols / kChunkElems; ++chunk) {
      vu pairs[4] = {};
      load_pairs(pairs, b, col, chunk, cols - 1);
      for (uint32_t i = 0; i < rows; ++i) {
        vf sum = load_first(acc + i * ld + col, n, 0.0f);
        const float* a_row = scratch.a + i * kPanelCols + chunk * kChunkElems;
        for (uint32_t p = 0; p < 4; ++p) {
          sum = fma_bf16(splat(a_row[2 * p]), even_of(pairs[p]), sum);
          sum = fma_bf16(splat(a_row[2 * p + 1]), odd_of(pairs[p]), sum);
        }
        store_first(acc + i * ld + col, sum, n);
      }
    }
  }
}

#endif  // TERRAZZO_SIMD_BODIES
