// The kernel of decode_feed.cu: a loader warp and two consumer warpgroups around a ring of slots.
// One file, because the two forms are meant to be read side by side.
#pragma once

#include "probe.cuh"

namespace probe {

constexpr int kSlots = 12;
constexpr int kSlotBytes = 16384;
constexpr int kPageTokens = 64;
constexpr int kPanelBytes = kPageTokens * 128;  // 64 tokens x 64 columns
constexpr int kGroup = 8;                       // heads of a unit, padded
constexpr int kKvHeads = 8;
constexpr int kThreads = 384;
constexpr float kMinusInfinity = -INFINITY;

enum class Form { kStreamOnly, kTransposed, kPadded };
// Who arrives at a slot's empty barrier (count 2); kNoFeed: nothing is loaded or waited for, which
// times the arithmetic alone.
enum class Release { kOwnerTwice, kBoth, kNoFeed };

struct Params {
  const char* pool;   // [page][kv head][K panels][V panels]
  const int* blocks;  // [unit][pages]: index of (page, kv head) in the pool
  const char* q;      // [unit][panel][kGroup][64] bf16, swizzled
  float* out;         // [unit][kGroup][head dim]
  int pages;          // of each unit
  int units_per_sm;   // even
  float scale_log2;   // softmax scale times log2(e)
};

// The last page of unit u holds fewer tokens.
__host__ __device__ inline int unit_tokens(int unit, int pages) {
  return pages * kPageTokens - (unit * 7) % kPageTokens;
}

template <int kHeadDim>
struct Shared {
  alignas(1024) char slots[kSlots][kSlotBytes];
  alignas(1024) char q[2][2][kHeadDim * kGroup * 2];  // [consumer][stage]
  alignas(1024) char p[2][2][kGroup * 128];           // [consumer][page & 1], P^T as [head][token]
  alignas(1024) char ones[kGroup * 128];
  float maxima[2][4][kGroup];  // [consumer][warp][head]
  uint64_t full[kSlots];
  uint64_t empty[kSlots];
  uint64_t q_full[2][2];
  uint64_t q_empty[2][2];
};

__device__ __forceinline__ float exp2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

__device__ __forceinline__ void store_matrices_transposed(uint32_t address, uint32_t x,
                                                          uint32_t y) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address),
               "r"(x), "r"(y)
               : "memory");
}

template <int kCount>
__device__ __forceinline__ void pin_registers(float (&values)[kCount]) {
#pragma unroll
  for (float& value : values)
    pin_register(value);
}

// Makes all four words registers, zeros too: wgmma reads them later.
__device__ __forceinline__ void pin_fragment(uint32_t (&words)[4]) {
  asm volatile("" : "+r"(words[0]), "+r"(words[1]), "+r"(words[2]), "+r"(words[3])::"memory");
}

// Cursor over the ring and the way a consumer gives slots back.
template <int kHeadDim, Release kRelease>
struct Feed {
  static constexpr int kParts = kHeadDim / 64;  // slots a page and unit: 2 or 1
  uint32_t slots, full, empty;
  int consumer;
  bool elected;

  __device__ uint32_t sequence(uint32_t page, int owner, int part) const {
    return (page * 2 + owner) * kParts + part;
  }
  __device__ uint32_t address(uint32_t n) const { return slots + (n % kSlots) * kSlotBytes; }
  __device__ void wait(uint32_t n) const {
    if constexpr (kRelease == Release::kNoFeed)
      return;
    mbarrier_wait(full + (n % kSlots) * 8, (n / kSlots) & 1);
  }
  __device__ void release(uint32_t n) const {
    if constexpr (kRelease == Release::kNoFeed)
      return;
    if (elected)
      mbarrier_arrive(empty + (n % kSlots) * 8, kRelease == Release::kBoth ? 1 : 2);
  }
  // The other consumer's slots of a page: wait, or we could lap it, then arrive.
  __device__ void pass_foreign(uint32_t page) const {
    if constexpr (kRelease != Release::kBoth)
      return;
    if (!elected)
      return;
    for (int part = 0; part < kParts; ++part) {
      uint32_t n = sequence(page, 1 - consumer, part);
      wait(n);
      mbarrier_arrive(empty + (n % kSlots) * 8);
    }
  }
};

template <int kHeadDim, Release kRelease>
__device__ void run_loader(const Params& params, Shared<kHeadDim>& shared, int first_unit) {
  constexpr int kParts = kHeadDim / 64;
  constexpr int kQBytes = kHeadDim * kGroup * 2;
  int lane = threadIdx.x % 32;
  uint32_t slots = held_address(shared.slots);
  uint32_t full = held_address(shared.full);
  uint32_t empty = held_address(shared.empty);
  uint64_t policy = evict_first_policy();
  uint32_t slot = 0;
  uint32_t phase = 0;
  for (int pair = 0; pair < params.units_per_sm / 2; ++pair) {
    int unit = first_unit + pair * 2;
    if (lane < 2) {
      int stage = pair & 1;
      uint32_t q_full = smem_address(&shared.q_full[lane][stage]);
      mbarrier_wait(smem_address(&shared.q_empty[lane][stage]), ((pair >> 1) & 1) ^ 1);
      mbarrier_expect(q_full, kQBytes);
      bulk_load_async(smem_address(shared.q[lane][stage]), params.q + size_t(unit + lane) * kQBytes,
                      kQBytes, q_full);
    }
    __syncwarp();
    if constexpr (kRelease == Release::kNoFeed)
      continue;
    // Lane = consumer * 16 + page of the batch; the next batch is fetched a batch ahead.
    auto fetch = [&](int page) {
      page += lane % 16;
      return page < params.pages
                 ? __ldcg(params.blocks + size_t(unit + lane / 16) * params.pages + page)
                 : 0;
    };
    int next = fetch(0);
    for (int page = 0; page < params.pages; page += 16) {
      int batch = next;
      next = fetch(page + 16);
      for (int j = 0; j < 32 && page + j / 2 < params.pages; ++j) {
        int block = __shfl_sync(~0u, batch, (j % 2) * 16 + j / 2);
        const char* source = params.pool + size_t(block) * kParts * kSlotBytes;
        for (int part = 0; part < kParts; ++part) {
          if (lane == 0) {
            mbarrier_wait(empty + slot * 8, phase ^ 1);
            mbarrier_expect(full + slot * 8, kSlotBytes);
            bulk_load_async(slots + slot * kSlotBytes, source + part * kSlotBytes, kSlotBytes,
                            full + slot * 8, policy);
          }
          __syncwarp();
          if (++slot == kSlots) {
            slot = 0;
            phase ^= 1;
          }
        }
      }
    }
  }
}

// Consumes a unit without arithmetic: the ceiling of the feed.
template <int kHeadDim, Release kRelease>
__device__ void stream_unit(const Feed<kHeadDim, kRelease>& feed, int pages, uint32_t first_page) {
  if (!feed.elected)
    return;
  for (int page = 0; page < pages; ++page) {
    for (int part = 0; part < Feed<kHeadDim, kRelease>::kParts; ++part) {
      uint32_t n = feed.sequence(first_page + page, feed.consumer, part);
      feed.wait(n);
      feed.release(n);
    }
    if (page > 0)
      feed.pass_foreign(first_page + page - 1);
  }
  feed.pass_foreign(first_page + pages - 1);
}

// Both forms: QK of page i + 1 is issued before PV of page i, and the softmax of page i + 1 runs
// beside PV of page i. No accumulator is touched while a product is in flight.
template <int kHeadDim, Release kRelease>
__device__ void attend_transposed(const Params& params, Shared<kHeadDim>& shared,
                                  const Feed<kHeadDim, kRelease>& feed, uint32_t q, int unit,
                                  uint32_t first_page) {
  constexpr int kPanels = kHeadDim / 64;
  constexpr uint32_t kOne = 0x3F803F80;
  int thread = threadIdx.x % 128;
  int warp = thread / 32;
  int lane = thread % 32;
  int tokens = unit_tokens(unit, params.pages);
  float (*maxima)[kGroup] = shared.maxima[feed.consumer];
  int head = (lane % 4) * 2;  // and head + 1
  uint32_t p_tile = held_address(shared.p[feed.consumer]);
  uint32_t p_row = (lane % 8) * 128 + (((warp * 2 + (lane / 8) % 2) ^ (lane % 8)) * 16);
  uint32_t ones[4] = {kOne, kOne, kOne, kOne};

  float scores[4];
  float o[kPanels][4] = {};
  float l[4] = {};
  float m[2] = {kMinusInfinity, kMinusInfinity};
  float alpha[2];

  auto issue_scores = [&](int page) {
    uint32_t n = feed.sequence(first_page + page, feed.consumer, 0);
    feed.wait(n);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      uint32_t offset = (step % 4) * 32;
      uint64_t a = tile_descriptor(feed.address(n) + (step / 4) * kPanelBytes + offset, 16, 1024);
      uint64_t b = tile_descriptor(q + (step / 4) * 1024 + offset, 16, 1024);
      wgmma_async<false, false>(scores, a, b, step > 0);
    }
    wgmma_commit();
  };
  auto softmax = [&](int page) {  // scores -> P^T in shared memory, alpha
    int token = page * kPageTokens + warp * 16 + lane / 4;
    for (int i = 0; i < 4; ++i) {
      if (token + (i / 2) * 8 >= tokens)
        scores[i] = kMinusInfinity;
    }
    float high[2] = {fmaxf(scores[0], scores[2]), fmaxf(scores[1], scores[3])};
    for (int distance = 4; distance < 32; distance *= 2) {
      for (float& value : high) {
        value = fmaxf(value, __shfl_xor_sync(~0u, value, distance));
      }
    }
    if (lane < 4) {
      maxima[warp][head] = high[0];
      maxima[warp][head + 1] = high[1];
    }
    named_barrier(1 + feed.consumer, 128);
    if constexpr (kPanels == 2) {
      feed.release(feed.sequence(first_page + page, feed.consumer, 0));
    }
    float offset[2];
    for (int i = 0; i < 2; ++i) {
      float highest = m[i];
      for (int w = 0; w < 4; ++w)
        highest = fmaxf(highest, maxima[w][head + i]);
      alpha[i] = exp2_approx((m[i] - highest) * params.scale_log2);
      m[i] = highest;
      offset[i] = highest * params.scale_log2;
    }
    float p[4];
    for (int i = 0; i < 4; ++i) {
      p[i] = exp2_approx(fmaf(scores[i], params.scale_log2, -offset[i % 2]));
    }
    store_matrices_transposed(p_tile + (page & 1) * 1024 + p_row, pack_bf16(p[0], p[1]),
                              pack_bf16(p[2], p[3]));
    fence_proxy_async_shared();
    named_barrier(1 + feed.consumer, 128);
  };

  issue_scores(0);
  wgmma_wait<0>();
  pin_registers(scores);
  softmax(0);
  auto issue_output = [&](int page) {
    uint32_t n = feed.sequence(first_page + page, feed.consumer, kPanels - 1);
    if constexpr (kPanels == 2)
      feed.wait(n);
    uint32_t v_tile = feed.address(n) + (kPanels == 1 ? kPanelBytes : 0);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kPageTokens / 16; ++step) {
      uint64_t b = tile_descriptor(p_tile + (page & 1) * 1024 + step * 32, 16, 1024);
#pragma unroll
      for (int panel = 0; panel < kPanels; ++panel) {
        uint64_t a = tile_descriptor(v_tile + panel * kPanelBytes + step * 2048, 8192, 1024);
        wgmma_async<true, false>(o[panel], a, b, 1);
      }
      wgmma_async<false>(l, ones, b, 1);
    }
    wgmma_commit();
  };
  auto finish_output = [&](int page) {
    wgmma_wait<0>();
    for (auto& panel : o)
      pin_registers(panel);
    pin_registers(l);
    feed.release(feed.sequence(first_page + page, feed.consumer, kPanels - 1));
    feed.pass_foreign(first_page + page);
  };
  int last = params.pages - 1;
  for (int page = 0; page < last; ++page) {
    issue_scores(page + 1);
    issue_output(page);
    wgmma_wait<1>();
    pin_registers(scores);
    softmax(page + 1);
    finish_output(page);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      l[i] *= alpha[i % 2];
      for (auto& panel : o)
        panel[i] *= alpha[i % 2];
    }
  }
  issue_output(last);
  finish_output(last);
  float* out = params.out + size_t(unit) * kGroup * kHeadDim;
  for (int panel = 0; panel < kPanels; ++panel) {
    for (int i = 0; i < 4; ++i) {
      int row = panel * 64 + warp * 16 + lane / 4 + (i / 2) * 8;
      out[(head + i % 2) * kHeadDim + row] = o[panel][i] * __frcp_rn(l[i]);
    }
  }
}

template <int kHeadDim, Release kRelease>
__device__ void attend_padded(const Params& params, Shared<kHeadDim>& shared,
                              const Feed<kHeadDim, kRelease>& feed, uint32_t q, int unit,
                              uint32_t first_page) {
  constexpr int kPanels = kHeadDim / 64;
  int thread = threadIdx.x % 128;
  int lane = thread % 32;
  bool has_rows = thread < 32;  // heads are rows 0 to 7 of warp 0
  int tokens = unit_tokens(unit, params.pages);
  uint32_t ones = held_address(shared.ones);

  uint32_t q_fragments[kHeadDim / 16][4] = {};
#pragma unroll
  for (int step = 0; step < kHeadDim / 16; ++step) {
    for (int i = 0; i < 2; ++i) {
      uint32_t column = (step % 4) * 16 + i * 8 + (lane % 4) * 2;
      uint32_t word = load_shared(q + (step / 4) * 1024 + swizzled(lane / 4, column));
      q_fragments[step][i * 2] = has_rows ? word : 0;
    }
    pin_fragment(q_fragments[step]);
  }
  float scores[32];
  float o[kHeadDim / 2] = {};
  float l[4] = {};
  float m = kMinusInfinity;
  float alpha = 1.0f;
  uint32_t p_fragments[4][4] = {};
  uint32_t next_fragments[4][2];
  auto take_next_fragments = [&] {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      p_fragments[step][0] = has_rows ? next_fragments[step][0] : 0;
      p_fragments[step][2] = has_rows ? next_fragments[step][1] : 0;
      pin_fragment(p_fragments[step]);
    }
  };

  auto issue_scores = [&](int page) {
    uint32_t n = feed.sequence(first_page + page, feed.consumer, 0);
    feed.wait(n);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kHeadDim / 16; ++step) {
      uint64_t b =
          tile_descriptor(feed.address(n) + (step / 4) * kPanelBytes + (step % 4) * 32, 16, 1024);
      wgmma_async<false>(scores, q_fragments[step], b, step > 0);
    }
    wgmma_commit();
  };
  auto softmax = [&](int page) {  // scores -> next_fragments, alpha
    if constexpr (kPanels == 2) {
      feed.release(feed.sequence(first_page + page, feed.consumer, 0));
    }
    float highest = m;
    float masked[32];  // writing into `scores` would serialise the next products (C7511)
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      if (i % 4 >= 2)
        continue;  // rows 8 to 15 are padding
      int token = page * kPageTokens + (i / 4) * 8 + (lane % 4) * 2 + i % 2;
      masked[i] = token >= tokens ? kMinusInfinity : scores[i];
      highest = fmaxf(highest, masked[i]);
    }
    highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 1));
    highest = fmaxf(highest, __shfl_xor_sync(~0u, highest, 2));
    alpha = exp2_approx((m - highest) * params.scale_log2);
    float offset = highest * params.scale_log2;
    m = highest;
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      float low = exp2_approx(fmaf(masked[j * 4], params.scale_log2, -offset));
      float high = exp2_approx(fmaf(masked[j * 4 + 1], params.scale_log2, -offset));
      next_fragments[j / 2][j % 2] = pack_bf16(low, high);
    }
  };

  issue_scores(0);
  wgmma_wait<0>();
  pin_registers(scores);
  softmax(0);
  take_next_fragments();
  auto issue_output = [&](int page) {
    uint32_t n = feed.sequence(first_page + page, feed.consumer, kPanels - 1);
    if constexpr (kPanels == 2)
      feed.wait(n);
    uint32_t v_tile = feed.address(n) + (kPanels == 1 ? kPanelBytes : 0);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kPageTokens / 16; ++step) {
      uint64_t b = tile_descriptor(v_tile + step * 2048, 8192, 1024);
      wgmma_async<true>(o, p_fragments[step], b, 1);
      wgmma_async<false>(l, p_fragments[step], tile_descriptor(ones, 16, 1024), 1);
    }
    wgmma_commit();
  };
  auto finish_output = [&](int page) {
    wgmma_wait<0>();
    pin_registers(o);
    pin_registers(l);
    feed.release(feed.sequence(first_page + page, feed.consumer, kPanels - 1));
    feed.pass_foreign(first_page + page);
  };
  int last = params.pages - 1;
  for (int page = 0; page < last; ++page) {
    issue_scores(page + 1);
    issue_output(page);
    wgmma_wait<1>();
    pin_registers(scores);
    softmax(page + 1);
    finish_output(page);
    take_next_fragments();
#pragma unroll
    for (float& value : o)
      value *= alpha;
#pragma unroll
    for (float& value : l)
      value *= alpha;
  }
  issue_output(last);
  finish_output(last);
  if (!has_rows)
    return;
  float* out = params.out + (size_t(unit) * kGroup + lane / 4) * kHeadDim;
#pragma unroll
  for (int i = 0; i < kHeadDim / 2; ++i) {
    if (i % 4 < 2)
      out[(i / 4) * 8 + (lane % 4) * 2 + i % 2] = o[i] * __frcp_rn(l[0]);
  }
}

template <int kHeadDim, Form kForm, Release kRelease>
__global__ void __launch_bounds__(kThreads, 1) attend(const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) char storage[];
  auto& shared = *reinterpret_cast<Shared<kHeadDim>*>(storage);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kSlots; ++i) {
      mbarrier_init(smem_address(&shared.full[i]), 1);
      mbarrier_init(smem_address(&shared.empty[i]), 2);
    }
    for (int i = 0; i < 4; ++i) {
      mbarrier_init(smem_address(&shared.q_full[i / 2][i % 2]), 1);
      mbarrier_init(smem_address(&shared.q_empty[i / 2][i % 2]), 1);
    }
    fence_barrier_init();
  }
  for (int i = threadIdx.x; i < kGroup * 64; i += kThreads) {
    reinterpret_cast<uint16_t*>(shared.ones)[i] = 0x3F80;
  }
  fence_proxy_async_shared();
  __syncthreads();
  int first_unit = blockIdx.x * params.units_per_sm;
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x < 32)
      run_loader<kHeadDim, kRelease>(params, shared, first_unit);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    int consumer = threadIdx.x / 128 - 1;
    // The padded form keeps warp 0 busy, so another warp does the arrivals.
    bool elected = threadIdx.x % 128 == (kForm == Form::kPadded ? 32 : 0);
    Feed<kHeadDim, kRelease> feed{held_address(shared.slots), held_address(shared.full),
                                  held_address(shared.empty), consumer, elected};
    for (int pair = 0; pair < params.units_per_sm / 2; ++pair) {
      int unit = first_unit + pair * 2 + consumer;
      int stage = pair & 1;
      mbarrier_wait(smem_address(&shared.q_full[consumer][stage]), (pair >> 1) & 1);
      uint32_t q = held_address(shared.q[consumer][stage]);
      uint32_t first_page = pair * params.pages;
      if constexpr (kForm == Form::kStreamOnly) {
        stream_unit(feed, params.pages, first_page);
      } else if constexpr (kForm == Form::kTransposed) {
        attend_transposed(params, shared, feed, q, unit, first_page);
      } else {
        attend_padded(params, shared, feed, q, unit, first_page);
      }
      named_barrier(1 + consumer, 128);
      if (elected)
        mbarrier_arrive(smem_address(&shared.q_empty[consumer][stage]));
    }
  }
  __syncthreads();
}

}  // namespace probe
