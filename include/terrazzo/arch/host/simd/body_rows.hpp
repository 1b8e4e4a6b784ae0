// Element-wise helpers of epilogues.
#if defined(TERRAZZO_SIMD_BODIES)

struct SiluMulMap {
  const float* gate;
  const float* up;
  [[gnu::always_inline]] vf at(uint32_t i, uint32_t n) const {
    const vf g = load_first(gate + i, n, 0.0f);
    const vf u = load_first(up + i, n, 0.0f);
    return g / (exp2_vector(g * -kLog2E) + 1.0f) * u;
  }
};
struct ScaleMap {
  const float* x;
  float factor;
  [[gnu::always_inline]] vf at(uint32_t i, uint32_t n) const {
    return load_first(x + i, n, 0.0f) * factor;
  }
};

inline void silu_mul(float* out, const float* gate, const float* up, uint32_t n) {
  map_row(out, n, SiluMulMap{gate, up});
}

inline void scale_row(float* dst, float factor, uint32_t n) {
  map_row(dst, n, ScaleMap{dst, factor});
}

inline void round_store_row(std::byte* tile, uint32_t row, const float* src, uint32_t cols) {
  uint32_t col = 0;
  for (; col + kLanes <= cols; col += kLanes) {
    const vh bits = narrow(round_bits(load(src + col)));
    const auto* bytes = reinterpret_cast<const std::byte*>(&bits);
    constexpr uint32_t kPiece = kLanes < kChunkElems ? kLanes : kChunkElems;  // within a chunk
    for (uint32_t piece = 0; piece < kLanes; piece += kPiece) {
      __builtin_memcpy(tile + element_offset(row, col + piece), bytes + piece * sizeof(bf16),
                       kPiece * sizeof(bf16));
    }
  }
  for (; col < cols; ++col) {
    const bf16 value = to_bf16(src[col]);
    __builtin_memcpy(tile + element_offset(row, col), &value, sizeof value);
  }
}

inline float load_element(const std::byte* tile, uint32_t row, uint32_t col) {
  bf16 value;
  __builtin_memcpy(&value, tile + element_offset(row, col), sizeof value);
  return to_float(value);
}

inline void load_row(float* dst, const std::byte* tile, uint32_t row, uint32_t cols) {
  uint32_t col = 0;
  for (; col + kLanes <= cols; col += kLanes) {
    store(dst + col, load_tile(tile, row, col));
  }
  for (; col < cols; ++col) {
    dst[col] = load_element(tile, row, col);
  }
}

inline void add_row(float* dst, const std::byte* tile, uint32_t row, uint32_t cols) {
  uint32_t col = 0;
  for (; col + kLanes <= cols; col += kLanes) {
    store(dst + col, load(dst + col) + load_tile(tile, row, col));
  }
  for (; col < cols; ++col) {
    dst[col] += load_element(tile, row, col);
  }
}

inline float sum_squares_row(const std::byte* tile, uint32_t row) {
  vf sums[kParts] = {};
  for (uint32_t col = 0; col < kPanelCols; col += kBlock) {
    for (uint32_t part = 0; part < kParts; ++part) {
      const vf x = load_tile(tile, row, col + part * kLanes);
      sums[part] = fma(x, x, sums[part]);
    }
  }
  return reduce_block(sums, Add{});
}

#endif  // TERRAZZO_SIMD_BODIES
