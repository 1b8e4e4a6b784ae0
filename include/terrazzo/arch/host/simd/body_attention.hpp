// Online-softmax attention over one page of 64 tokens.
#if defined(TERRAZZO_SIMD_BODIES)

inline constexpr uint32_t kUnpackedRows = 8;  // most rows for which V is not copied

/// Scores of one row -> probabilities (rounded to bf16), new max and sum; returns the factor for
/// what is already in `out`. Tokens from `limit` on count as absent.
[[gnu::always_inline]] inline float softmax_row(float* probabilities, const float* scores,
                                                uint32_t limit, float scale, float& max,
                                                float& sum) {
  constexpr uint32_t kVectors = kPageTokens / kLanes;
  vf s[kVectors];
  vf largest[kParts];
  for (vf& part : largest) {
    part = splat(-kInfinity);
  }
  for (uint32_t i = 0; i < kVectors; ++i) {
    const vu token = lane_ids() + i * kLanes;
    s[i] = token < splat(limit) ? load(scores + i * kLanes) : splat(-kInfinity);
    largest[i % kParts] = larger(s[i], largest[i % kParts]);
  }
  const float page_max = reduce_block(largest, Larger{}) * scale;
  const float new_max = page_max > max ? page_max : max;
  const float reference = new_max == -kInfinity ? 0.0f : new_max;
  vf sums[kParts] = {};
  for (uint32_t i = 0; i < kVectors; ++i) {
    const vf p = exp2_vector(fma(s[i], splat(scale), splat(-reference)));
    sums[i % kParts] += p;
    store(probabilities + i * kLanes, round_to_bf16(p));
  }
  const float alpha = exp2_one(max - reference);
  max = new_max;
  sum = fma(sum, alpha, reduce_block(sums, Add{}));
  return alpha;
}

/// V straight from its tiles, for few rows.
struct TileValues {
  const std::byte* tiles;
  [[gnu::always_inline]] vf at(uint32_t token, uint32_t d) const {
    return load_tile(tiles + d / kPanelCols * kHalfPanelBytes, token, d % kPanelCols);
  }
};

/// V as fp32 in scratch, for many rows.
struct PackedValues {
  const float* values;  // [token, head_dim]
  uint32_t head_dim;
  [[gnu::always_inline]] vf at(uint32_t token, uint32_t d) const {
    return load(values + token * head_dim + d);
  }
};

/// A row that sees tokens of this page: where its output is, its limit, the factor of what is
/// there.
struct ActiveRow {
  float* out;
  uint32_t limit;
  float alpha;
};

/// Columns [d, d + kVectors * kLanes): out = out * alpha + tokens [begin, end) of p * V.
template <uint32_t kRows, uint32_t kVectors, class Values>
[[gnu::always_inline]] inline void value_block(const ActiveRow* rows, const float* p,
                                               const Values& values, uint32_t d, uint32_t begin,
                                               uint32_t end, bool scale) {
  vf sum[kRows][kVectors];
#pragma GCC unroll 16
  for (uint32_t r = 0; r < kRows; ++r) {
    const vf factor = splat(scale ? rows[r].alpha : 1.0f);
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVectors; ++i) {
      sum[r][i] = load(rows[r].out + d + i * kLanes) * factor;
    }
  }
  for (uint32_t token = begin; token < end; ++token) {
    vf v[kVectors];
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVectors; ++i) {
      v[i] = values.at(token, d + i * kLanes);
    }
#pragma GCC unroll 16
    for (uint32_t r = 0; r < kRows; ++r) {
      const vf x = splat(p[r * kPageTokens + token]);
#pragma GCC unroll 16
      for (uint32_t i = 0; i < kVectors; ++i) {
        sum[r][i] = fma_bf16(x, v[i], sum[r][i]);
      }
    }
  }
#pragma GCC unroll 16
  for (uint32_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 16
    for (uint32_t i = 0; i < kVectors; ++i) {
      store(rows[r].out + d + i * kLanes, sum[r][i]);
    }
  }
}

/// kRows rows: together as far as all of them see, then each alone up to its limit (tokens beyond
/// it must not even be multiplied by 0: that could turn -0 into +0, or NaN into the row).
template <uint32_t kRows, uint32_t kVectors, class Values>
[[gnu::noinline]] inline void value_rows(const ActiveRow* rows, const float* p,
                                         const Values& values, uint32_t head_dim) {
  uint32_t common = rows[0].limit;
  for (uint32_t r = 1; r < kRows; ++r) {
    common = rows[r].limit < common ? rows[r].limit : common;
  }
  for (uint32_t d = 0; d < head_dim; d += kVectors * kLanes) {
    value_block<kRows, kVectors>(rows, p, values, d, 0, common, true);
    for (uint32_t r = 0; kRows > 1 && r < kRows; ++r) {
      if (rows[r].limit > common) {
        value_block<1, kVectors>(rows + r, p + r * kPageTokens, values, d, common, rows[r].limit,
                                 false);
      }
    }
  }
}

/// out of all active rows, whose probabilities are the first rows of p.
inline void multiply_values(const ActiveRow* rows, uint32_t num_rows, const float* p,
                            const std::byte* v, uint32_t head_panels, float* packed) {
  constexpr uint32_t kWide = kPanelCols / kLanes < 4 ? kPanelCols / kLanes : 4;
  constexpr uint32_t kValueRows = kLanes == 16 ? 8 : 4;
  constexpr uint32_t kNarrow = kLanes == 16 ? 4 : 2;  // 4 rows: registers allow no more
  const uint32_t head_dim = head_panels * kPanelCols;
  uint32_t i = 0;
  if (num_rows > kUnpackedRows) {
    uint32_t tokens = 0;
    for (uint32_t r = 0; r < num_rows; ++r) {
      tokens = rows[r].limit > tokens ? rows[r].limit : tokens;
    }
    const TileValues tiles{v};
    for (uint32_t token = 0; token < tokens; ++token) {
      for (uint32_t d = 0; d < head_dim; d += kLanes) {
        store(packed + token * head_dim + d, tiles.at(token, d));
      }
    }
    const PackedValues values{packed, head_dim};
    for (; i + kValueRows <= num_rows; i += kValueRows) {
      value_rows<kValueRows, 2>(rows + i, p + i * kPageTokens, values, head_dim);
    }
    for (; i + 4 <= num_rows; i += 4) {
      value_rows<4, 2>(rows + i, p + i * kPageTokens, values, head_dim);
    }
    for (; i < num_rows; ++i) {
      value_rows<1, kWide>(rows + i, p + i * kPageTokens, values, head_dim);
    }
    return;
  }
  const TileValues values{v};
  for (; i + 4 <= num_rows; i += 4) {
    value_rows<4, kNarrow>(rows + i, p + i * kPageTokens, values, head_dim);
  }
  for (; i + 2 <= num_rows; i += 2) {
    value_rows<2, kWide>(rows + i, p + i * kPageTokens, values, head_dim);
  }
  if (i < num_rows) {
    value_rows<1, kWide>(rows + i, p + i * kPageTokens, values, head_dim);
  }
}

inline void attention_page(AttentionState state, const std::byte* q, uint32_t q_panel_stride,
                           const std::byte* k, const std::byte* v, uint32_t rows,
                           uint32_t head_panels, const uint32_t* limits, float scale_log2) {
  uint32_t tokens = 0;
  for (uint32_t i = 0; i < rows; ++i) {
    tokens = limits[i] > tokens ? limits[i] : tokens;
  }
  if (tokens == 0) {
    return;
  }
  KernelScratch& scratch = kernel_scratch();
  const uint32_t head_dim = head_panels * kPanelCols;
  __builtin_memset(scratch.scores, 0, rows * kPageTokens * sizeof(float));
  for (uint32_t panel = 0; panel < head_panels; ++panel) {
    gemm_panel(scratch.scores, kPageTokens, q + panel * q_panel_stride, k + panel * kHalfPanelBytes,
               rows, round_up(tokens, 8u));
  }
  ActiveRow active[kHalfRows];
  uint32_t num_active = 0;
  for (uint32_t i = 0; i < rows; ++i) {
    if (limits[i] == 0) {
      continue;
    }
    float* p = scratch.scores + num_active * kPageTokens;  // not after row i's scores
    const float alpha = softmax_row(p, scratch.scores + i * kPageTokens, limits[i], scale_log2,
                                    state.max[i], state.sum[i]);
    active[num_active++] = {state.out + i * head_dim, limits[i], alpha};
  }
  multiply_values(active, num_active, scratch.scores, v, head_panels, scratch.values);
}

inline void attention_fold(AttentionState total, AttentionState part, uint32_t rows,
                           uint32_t head_dim) {
  for (uint32_t i = 0; i < rows; ++i) {
    float* out = total.out + i * head_dim;
    const float* add = part.out + i * head_dim;
    if (part.sum[i] == 0.0f && part.max[i] == -kInfinity) {
      continue;
    }
    if (total.sum[i] == 0.0f && total.max[i] == -kInfinity) {
      __builtin_memcpy(out, add, head_dim * sizeof(float));
      total.max[i] = part.max[i];
      total.sum[i] = part.sum[i];
      continue;
    }
    const float max = part.max[i] > total.max[i] ? part.max[i] : total.max[i];
    const float reference = max == -kInfinity ? 0.0f : max;
    const float keep = exp2_one(total.max[i] - reference);
    const float take = exp2_one(part.max[i] - reference);
    for (uint32_t d = 0; d < head_dim; d += kLanes) {
      store(out + d, fma(load(add + d), splat(take), load(out + d) * keep));
    }
    total.max[i] = max;
    total.sum[i] = fma(part.sum[i], take, total.sum[i] * keep);
  }
}

#endif  // TERRAZZO_SIMD_BODIES
