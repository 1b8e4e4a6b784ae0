// Online-softmax attention over one page of 64 tokens.
#if defined(TERRAZZO_SIMD_BODIES)

/// Scores of one row -> probabilities (rounded to bf16), new max and sum; returns the factor for what
/// is already in `out`. Tokens from `limit` on count as absent.
[[gnu::always_inline]] inline float softmax_row(float* scores, uint32_t limit, float scale,
                                                float& max, float& sum) {
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
    store(scores + i * kLanes, round_to_bf16(p));
  }
  const float alpha = exp2_one(max - reference);
  max = new_max;
  sum = fma(sum, alpha, reduce_block(sums, Add{}));
  return alpha;
}

inline void attention_page(AttentionState state, const std::byte* q, uint32_t q_panel_stride,
                           const std::byte* k, const std::byte* v, uint32_t rows,
                           uint32_t head_panels, const uint32_t* limits, float scale_log2) {
  KernelScratch& scratch = kernel_scratch();
  const uint32_t head_dim = head_panels * kPanelCols;
  for (uint32_t i = 0; i < rows * kPageTokens; ++i) {
    scratch.scores[i] = 0.0f;
  }
  for (uint32_t panel = 0; panel < head_panels; ++panel) {
    gemm_panel(scratch.scores, kPageTokens, q + panel * q_panel_stride,
               k + panel * kHalfPanelBytes, rows, kPageTokens);
  }
  for (uint32_t i = 0; i < rows; ++i) {
    if (limits[i] == 0) {
      continue;
    }
    float* p = scratch.scores + i * kPageTokens;
    float* out = state.out + i * head_dim;
    const float alpha = softmax_row(p, limits[i], scale_log2, state.max[i], state.sum[i]);
    for (uint32_t d = 0; d < head_dim; d += kLanes) {
      const std::byte* panel = v + d / kPanelCols * kHalfPanelBytes;
      vf sum = load(out + d) * alpha;
      for (uint32_t token = 0; token < limits[i]; ++token) {
        sum = fma_bf16(splat(p[token]), load_tile(panel, token, d % kPanelCols), sum);
      }
      store(out + d, sum);
    }
  }
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
