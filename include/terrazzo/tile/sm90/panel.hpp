// Element-wise work on accumulators and output panels.
#pragma once

#include "terrazzo/arch/sm90/machine.hpp"
#include "terrazzo/arch/sm90/matrix.hpp"
#include "terrazzo/arch/sm90/special.hpp"
#include "terrazzo/tile/sm90/tiles.hpp"

namespace terrazzo::sm90 {

__device__ __forceinline__ float load_shared_f32(uint32_t address) {
  return *static_cast<const float*>(__cvta_shared_to_generic(address));
}

__device__ __forceinline__ float load_shared_bf16(uint32_t address) {
  return to_float(*static_cast<const bf16*>(__cvta_shared_to_generic(address)));
}

__device__ __forceinline__ void store_shared_bf16(uint32_t address, float value) {
  *static_cast<bf16*>(__cvta_shared_to_generic(address)) = to_bf16(value);
}

__device__ __forceinline__ uint32_t load_shared_word(uint32_t address) {
  return *static_cast<const uint32_t*>(__cvta_shared_to_generic(address));
}

/// The two bf16 of a word.
__device__ __forceinline__ float low_bf16(uint32_t word) { return __uint_as_float(word << 16); }
__device__ __forceinline__ float high_bf16(uint32_t word) {
  return __uint_as_float(word & 0xffff0000u);
}

// --- row vectors: thread r works on row r, until `rstd` shows them to all ---

__device__ __forceinline__ void clear(RowVector& vector) {
  named_barrier_sync(vector.barrier, kConsumerThreads);  // readers of the last values are done
  const uint32_t thread = thread_place().thread;
  if (thread < kHalfRows) {
    vector.values[thread] = 0.0f;
  }
}

/// vector[r] += line[first_row + r] for each of `lines` lines of [128] fp32, in ascending order.
__device__ __forceinline__ void add_lines(RowVector& vector, const Slot& slot, uint32_t lines,
                                          uint32_t first_row, uint32_t rows) {
  const uint32_t thread = thread_place().thread;
  if (thread < rows) {
    float sum = vector.values[thread];
    for (uint32_t line = 0; line < lines; ++line) {
      sum += load_shared_f32(slot.data +
                             (line * kRowBlock + first_row + thread) * uint32_t{sizeof(float)});
    }
    vector.values[thread] = sum;
  }
}

/// Sums of squares -> 1 / sqrt(mean + eps). Approximate, to two units in the last place: exact
/// division and root are calls, and would serialise the products that run beside.
__device__ __forceinline__ void rstd(RowVector& vector, uint32_t hidden, float eps, uint32_t rows) {
  const uint32_t thread = thread_place().thread;
  if (thread < rows) {
    const float share = rcp_approx(static_cast<float>(hidden));
    vector.values[thread] = rsqrt_approx(fmaf(vector.values[thread], share, eps));
  }
  named_barrier_sync(vector.barrier, kConsumerThreads);
}

__device__ __forceinline__ void scale_rows(Accumulator& acc, const RowVector& factors, uint32_t,
                                           uint32_t) {
  const uint32_t row = thread_place().row;
  const float low = factors.values[row];
  const float high = factors.values[row + 8];
#pragma unroll
  for (uint32_t i = 0; i < kColTile / 2; ++i) {
    acc.values[i] *= i % 4 < 2 ? low : high;
  }
}

__device__ __forceinline__ void scale_rows(SmallAccumulator& acc, const RowVector& factors,
                                           uint32_t, uint32_t) {
  const uint32_t pair = thread_place().pair;
#pragma unroll
  for (uint32_t i = 0; i < kSmallTokensPerConsumer / 2; ++i) {
    const float factor = factors.values[i / 4 * 8 + pair + i % 2];
#pragma unroll
    for (auto& panel : acc.values) {
      panel[i] *= factor;
    }
  }
}

// --- panels ---

__device__ __forceinline__ void clear(Panel& panel, uint32_t) {
#pragma unroll
  for (float& value : panel.values) {
    value = 0.0f;
  }
}

/// A run-time choice among registers: moves under predicates, so that nothing goes to local memory.
__device__ __forceinline__ Panel take_panel(const Accumulator& acc, uint32_t panel, uint32_t) {
  Panel out{};
#pragma unroll
  for (uint32_t p = 0; p < kPanelsPerColTile; ++p) {
    if (p == panel) {
#pragma unroll
      for (uint32_t i = 0; i < kPanelCols / 2; ++i) {
        out.values[i] = acc.values[p * kPanelCols / 2 + i];
      }
    }
  }
  return out;
}

__device__ __forceinline__ SmallPanel take_panel(const SmallAccumulator& acc, uint32_t panel,
                                                 uint32_t) {
  SmallPanel out{};
#pragma unroll
  for (uint32_t p = 0; p < kPanelsPerColTile; ++p) {
    if (p == panel) {
#pragma unroll
      for (uint32_t i = 0; i < kSmallTokensPerConsumer / 2; ++i) {
        out.values[i] = acc.values[p][i];
      }
    }
  }
  return out;
}

__device__ __forceinline__ float silu_mul(float gate, float up) {
  constexpr float kLog2E = 1.44269504f;
  return gate * rcp_approx(1.0f + exp2_approx(-gate * kLog2E)) * up;
}

/// silu(gate) * up of output panel `panel`, from accumulator panels 2 * panel and 2 * panel + 1.
__device__ __forceinline__ Panel take_gated_panel(const Accumulator& acc, uint32_t panel,
                                                  uint32_t) {
  Panel out{};
#pragma unroll
  for (uint32_t p = 0; p < kPanelsPerColTile / 2; ++p) {
    if (p == panel) {
#pragma unroll
      for (uint32_t i = 0; i < kPanelCols / 2; ++i) {
        const uint32_t from = p * kPanelCols + i / 4 * 8 + i % 4;
        out.values[i] = silu_mul(acc.values[from], acc.values[from + 4]);
      }
    }
  }
  return out;
}

/// Two accumulator panels of 64 columns make one of 64: each thread has the gated columns of its
/// rows in both, 8 of every 16; so the result is two half-filled panels.
struct SmallGatedPanel {
  float values[2][kSmallTokensPerConsumer / 4];  // [accumulator panel][4-value group's low half]
};

__device__ __forceinline__ SmallGatedPanel take_gated_panel(const SmallAccumulator& acc,
                                                            uint32_t panel, uint32_t) {
  SmallGatedPanel out{};
#pragma unroll
  for (uint32_t p = 0; p < kPanelsPerColTile; ++p) {
    if (p / 2 == panel) {
#pragma unroll
      for (uint32_t i = 0; i < kSmallTokensPerConsumer / 4; ++i) {
        const uint32_t from = i / 2 * 4 + i % 2;
        out.values[p % 2][i] = silu_mul(acc.values[p][from], acc.values[p][from + 2]);
      }
    }
  }
  return out;
}

/// Calls f(value, token, column): gated columns 16 * warp + r of an accumulator panel are 8 * warp
/// + r.
template <class F>
__device__ __forceinline__ void for_each_element(SmallGatedPanel& panel, F f) {
  const ThreadPlace place = thread_place();
#pragma unroll
  for (uint32_t p = 0; p < 2; ++p) {
#pragma unroll
    for (uint32_t i = 0; i < kSmallTokensPerConsumer / 4; ++i) {
      f(panel.values[p][i], i / 2 * 8 + place.pair + i % 2,
        p * kPanelCols / 2 + place.row / 16 * 8 + place.row % 16);
    }
  }
}

__device__ __forceinline__ void rotate_pair(float& low, float& high, float cosine, float sine) {
  const float a = low;
  const float b = high;
  low = fmaf(a, cosine, -(b * sine));
  high = fmaf(b, cosine, a * sine);
}

/// Rotary embedding; see the host machine's.
template <class AnyPanel, class TableOf>
__device__ __forceinline__ void rotate(AnyPanel& panel, uint32_t head_panel, uint32_t head_dim,
                                       uint32_t rows, TableOf table_of) {
  for_each_partner(
      panel, [&](float& low, float& high, uint32_t row, uint32_t column) TERRAZZO_LAMBDA {
        if (row < rows) {
          const float* const cosines = table_of(row);
          const uint32_t dim = (head_panel * kPanelCols + column / 16 * 16) / 2 + column % 8;
          const float cosine = cosines[dim];
          const float sine = cosines[head_dim / 2 + dim];
          const float a = low;
          const float b = high;
          low = fmaf(a, cosine, -(b * sine));
          high = fmaf(b, cosine, a * sine);
        }
      });
}

/// The same for rows in the accumulators' own order: cosines and sines of two columns in one load
/// each.
template <class TableOf>
__device__ __forceinline__ void rotate(Panel& panel, uint32_t head_panel, uint32_t head_dim,
                                       uint32_t rows, TableOf table_of) {
  const ThreadPlace place = thread_place();
#pragma unroll
  for (uint32_t half = 0; half < 2; ++half) {
    const uint32_t row = place.row + half * 8;
    if (row < rows) {
      const float* const cosines = table_of(row) + head_panel * kPanelCols / 2 + place.pair;
#pragma unroll
      for (uint32_t run = 0; run < kPanelCols / (2 * kPairRun); ++run) {
        const auto cosine = *reinterpret_cast<const float2*>(cosines + run * kPairRun);
        const auto sine = *reinterpret_cast<const float2*>(cosines + head_dim / 2 + run * kPairRun);
        float* const low = panel.values + run * 8 + half * 2;
        rotate_pair(low[0], low[4], cosine.x, sine.x);
        rotate_pair(low[1], low[5], cosine.y, sine.y);
      }
    }
  }
}

}  // namespace terrazzo::sm90
