// A GEMM with few tokens, operands swapped: 64 weight rows (A) times N tokens (B), fed by bulk
// copies. Does it stream weights at the speed of memory? A weight slot holds two 64 x 64 k-tiles; a
// token slot comes before the weight slots that it serves.
//   halves:    each consumer computes half of the tokens of every row block
//   alternate: each consumer computes all tokens of every other row block
#include "probe.cuh"

namespace {

using namespace probe;

constexpr int kSlots = 12;
constexpr int kSlotBytes = 16384;
constexpr int kTileBytes = 8192;  // 64 rows x 64 columns
constexpr int kThreads = 384;

enum class Split { kHalves, kAlternate };

struct Params {
  const char* weights;  // [row block][k-tile][64 x 64], swizzled
  const char* tokens;   // [k-tile][token_stride bytes], rows of 128 bytes, swizzled
  char* out;            // [row block][64 tokens x 64 columns], swizzled
  int token_stride;     // bytes from one k-tile to the next
  int k_tiles;
  int row_blocks;  // over all copies of the matrix
};

template <int kTokens>
__host__ __device__ constexpr int token_slot_tiles() {  // k-tiles a token slot holds
  return kTokens == 24 ? 4 : 128 / kTokens;
}

struct Shared {
  alignas(1024) char slots[kSlots][kSlotBytes];
  alignas(1024) char staging[2][kTileBytes];
  uint64_t full[kSlots];
  uint64_t empty[kSlots];
};

struct Cursor {
  uint32_t slot = 0;
  uint32_t phase = 0;
  __device__ void advance() {
    if (++slot == kSlots) {
      slot = 0;
      phase ^= 1;
    }
  }
};

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

template <int kTokens>
__device__ void run_loader(const Params& params, Shared& shared) {
  constexpr int kGroup = token_slot_tiles<kTokens>();
  constexpr int kTileTokenBytes = kTokens * 128;
  int lane = threadIdx.x % 32;
  uint32_t slots = held_address(shared.slots);
  uint32_t full = held_address(shared.full);
  uint32_t empty = held_address(shared.empty);
  uint64_t policy = evict_first_policy();
  Cursor at;
  for (int block = blockIdx.x; block < params.row_blocks; block += gridDim.x) {
    const char* weights = params.weights + size_t(block) * params.k_tiles * kTileBytes;
    for (int tile = 0; tile < params.k_tiles; tile += kGroup) {
      mbarrier_wait(empty + at.slot * 8, at.phase ^ 1);
      uint32_t barrier = full + at.slot * 8;
      uint32_t slot = slots + at.slot * kSlotBytes;
      const char* source = params.tokens + size_t(tile) * params.token_stride;
      if (lane == 0)
        mbarrier_expect(barrier, kGroup * kTileTokenBytes);
      __syncwarp();
      if (params.token_stride == kTileTokenBytes) {
        if (lane == 0)
          bulk_load_async(slot, source, kGroup * kTileTokenBytes, barrier);
      } else if (lane < kGroup) {
        bulk_load_async(slot + lane * kTileTokenBytes, source + lane * params.token_stride,
                        kTileTokenBytes, barrier);
      }
      at.advance();
      for (int pair = 0; pair < kGroup / 2; ++pair) {
        if (lane == 0) {
          mbarrier_wait(empty + at.slot * 8, at.phase ^ 1);
          mbarrier_expect(full + at.slot * 8, kSlotBytes);
          bulk_load_async(slots + at.slot * kSlotBytes, weights + (tile + pair * 2) * kTileBytes,
                          kSlotBytes, full + at.slot * 8, policy);
        }
        __syncwarp();
        at.advance();
      }
    }
  }
}

// kN tokens of this consumer, the first one is first_token.
template <int kTokens, int kN>
__device__ void run_consumer(const Params& params, Shared& shared, int consumer, Split split) {
  constexpr int kGroup = token_slot_tiles<kTokens>();
  int thread = threadIdx.x % 128;
  int warp = thread / 32;
  int lane = thread % 32;
  bool elected = thread == 0;
  uint32_t slots = held_address(shared.slots);
  uint32_t full = held_address(shared.full);
  uint32_t empty = held_address(shared.empty);
  uint32_t staging = held_address(shared.staging[consumer]);
  int first_token = split == Split::kHalves ? consumer * kN : 0;
  Cursor at;
  auto release = [&](uint32_t slot) {
    if (elected)
      mbarrier_arrive(empty + slot * 8);
  };
  int turn = 0;
  for (int block = blockIdx.x; block < params.row_blocks; block += gridDim.x, ++turn) {
    if (split == Split::kAlternate && turn % 2 != consumer) {
      // The other consumer's slots: wait, or we could lap it, then arrive.
      int count = params.k_tiles / kGroup * (1 + kGroup / 2);
      for (int i = 0; i < count; ++i) {
        if (elected)
          mbarrier_wait(full + at.slot * 8, at.phase);
        release(at.slot);
        at.advance();
      }
      continue;
    }
    float d[kN / 2] = {};
    uint32_t previous = 0;  // weight slot whose products may be under way
    uint32_t previous_tokens = 0;
    for (int tile = 0; tile < params.k_tiles; tile += kGroup) {
      uint32_t tokens_slot = at.slot;
      mbarrier_wait(full + at.slot * 8, at.phase);
      at.advance();
#pragma unroll
      for (int pair = 0; pair < kGroup / 2; ++pair) {
        mbarrier_wait(full + at.slot * 8, at.phase);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < 8; ++step) {
          uint32_t a = slots + at.slot * kSlotBytes + (step / 4) * kTileBytes;
          uint32_t b = slots + tokens_slot * kSlotBytes + (pair * 2 + step / 4) * kTokens * 128 +
                       first_token * 128;
          uint32_t offset = (step % 4) * 32;
          wgmma_async<false, false>(d, tile_descriptor(a + offset, 16, 1024),
                                    tile_descriptor(b + offset, 16, 1024), 1);
        }
        wgmma_commit();
        wgmma_wait<1>();  // all but this slot's products are complete
        if (tile + pair > 0)
          release(previous);
        if (pair == 0 && tile > 0)
          release(previous_tokens);
        previous = at.slot;
        at.advance();
      }
      previous_tokens = tokens_slot;
    }
    wgmma_wait<0>();
#pragma unroll
    for (float& value : d)
      pin_register(value);
    release(previous);
    release(previous_tokens);
    if (elected)
      bulk_wait_read();  // staging is free again
    named_barrier(1 + consumer, 128);
#pragma unroll
    for (int j = 0; j < kN / 8; ++j) {
      uint32_t row = j * 8 + lane % 8;
      uint32_t chunk = warp * 2 + (lane / 8) % 2;
      uint32_t address = staging + row * 128 + ((chunk ^ (row & 7)) * 16);
      asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address),
                   "r"(pack_bf16(d[j * 4], d[j * 4 + 1])),
                   "r"(pack_bf16(d[j * 4 + 2], d[j * 4 + 3]))
                   : "memory");
    }
    fence_proxy_async_shared();
    named_barrier(1 + consumer, 128);
    if (elected) {
      bulk_store_async(params.out + size_t(block) * kTileBytes + first_token * 128, staging,
                       kN * 128);
      bulk_commit();
    }
  }
  if (elected)
    bulk_wait_complete();
}

template <int kTokens, Split kSplit>
__global__ void __launch_bounds__(kThreads, 1) multiply(const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) char storage[];
  auto& shared = *reinterpret_cast<Shared*>(storage);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kSlots; ++i) {
      mbarrier_init(smem_address(&shared.full[i]), 1);
      mbarrier_init(smem_address(&shared.empty[i]), 2);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    run_loader<kTokens>(params, shared);
  } else if (threadIdx.x >= 128) {
    constexpr int kN = kSplit == Split::kHalves ? kTokens / 2 : kTokens;
    run_consumer<kTokens, kN>(params, shared, threadIdx.x / 128 - 1, kSplit);
  }
  __syncthreads();
}

// ---------------------------------------------------------------- data and checks

__host__ __device__ inline uint16_t weight_value(uint64_t block, int row, int k) {
  return bf16_of_float(near_normal((block * 64 + row) * 16384 + k));
}

__host__ __device__ inline uint16_t token_value(int token, int k) {
  return bf16_of_float(near_normal((uint64_t(1) << 50) + token * 16384ull + k));
}

__global__ void fill_weights(char* weights, int k_tiles, size_t tiles) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < tiles * 4096;
       i += size_t(gridDim.x) * blockDim.x) {
    size_t tile = i / 4096;
    int row = i / 64 % 64;
    int column = i % 64;
    *reinterpret_cast<uint16_t*>(weights + tile * kTileBytes + swizzled(row, column)) =
        weight_value(tile / k_tiles, row, tile % k_tiles * 64 + column);
  }
}

char* make_tokens(int k_tiles, int tokens, int stride) {
  std::vector<uint16_t> host(size_t(k_tiles) * stride / 2, 0xFFFF);
  for (int token = 0; token < tokens; ++token) {
    for (int k = 0; k < k_tiles * 64; ++k) {
      host[(size_t(k / 64) * stride + swizzled(token, k % 64)) / 2] = token_value(token, k);
    }
  }
  return reinterpret_cast<char*>(to_device(host));
}

double relative_error(const std::vector<uint16_t>& out, int row_blocks, int k_tiles, int tokens) {
  double difference = 0.0;
  double norm = 0.0;
  for (int i = 0; i < 600; ++i) {
    int block = mix(i) % row_blocks;
    int row = mix(i + 1000) % 64;
    int token = mix(i + 2000) % tokens;
    double want = 0.0;
    for (int k = 0; k < k_tiles * 64; ++k) {
      want +=
          double(float_of_bf16(weight_value(block, row, k))) * float_of_bf16(token_value(token, k));
    }
    double got = float_of_bf16(out[(size_t(block) * kTileBytes + swizzled(token, row)) / 2]);
    difference += (want - got) * (want - got);
    norm += want * want;
  }
  double error = std::sqrt(difference / norm);
  return std::isfinite(error) ? error : 1e9;
}

struct Shape {
  const char* name;
  int rows, depth;
};

struct Case {
  const char* weights;
  int k_tiles, row_blocks, sms;
  std::vector<uint16_t>* reference;  // tokens 0 to 7 of the first case
};

template <int kTokens, Split kSplit>
void measure(const Case& c, bool compact) {
  constexpr int kTileTokenBytes = kTokens * 128;
  int stride = compact ? kTileTokenBytes : kTileBytes;
  char* tokens = make_tokens(c.k_tiles, kTokens, stride);
  size_t out_bytes = size_t(c.row_blocks) * kTileBytes;
  char* out = device_array<char>(out_bytes);
  auto* kernel = multiply<kTokens, kSplit>;
  PROBE_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, sizeof(Shared)));
  std::printf("%4d tokens, %-9s %-7s", kTokens, kSplit == Split::kHalves ? "halves" : "alternate",
              compact ? "compact" : "64 rows");
  for (int blocks : {1, 64, c.sms}) {
    Params params{c.weights, tokens, out, stride, c.k_tiles, c.row_blocks};
    if (blocks == 1)
      params.row_blocks = c.row_blocks / 8;  // still three times L2
    double seconds =
        median_seconds(3, [&] { kernel<<<blocks, kThreads, sizeof(Shared)>>>(params); });
    double bytes = double(params.row_blocks) * c.k_tiles * kTileBytes;
    std::printf("  %4d: %7.1f", blocks, bytes / seconds * 1e-9);
  }
  auto host = to_host(reinterpret_cast<uint16_t*>(out), out_bytes / 2);
  double error = relative_error(host, c.row_blocks, c.k_tiles, kTokens);
  size_t different = 0;
  if (c.reference->empty())
    *c.reference = host;
  for (int block = 0; block < c.row_blocks; ++block) {
    for (int i = 0; i < 8 * 64; ++i) {
      size_t at = size_t(block) * kTileBytes / 2 + i;
      different += host[at] != (*c.reference)[at];
    }
  }
  std::printf("  error %.1e %s, bits %s\n", error, error < 4e-3 ? "right" : "WRONG",
              different ? "DIFFER" : "equal");
  PROBE_CHECK(cudaFree(tokens));
  PROBE_CHECK(cudaFree(out));
}

}  // namespace

int main() {
  Device device = open_device();
  constexpr size_t kWeightBytes = size_t(1200) << 20;
  char* weights = device_array<char>(kWeightBytes);
  for (Shape shape : {Shape{"qkv", 6144, 4096}, Shape{"o", 4096, 4096},
                      Shape{"gate+up", 28672, 4096}, Shape{"down", 4096, 14336}}) {
    int k_tiles = shape.depth / 64;
    int copies = int(kWeightBytes / (size_t(shape.rows) * shape.depth * 2));
    int row_blocks = copies * shape.rows / 64;
    fill_weights<<<device.sm_count * 8, 256>>>(weights, k_tiles, size_t(row_blocks) * k_tiles);
    finish("fill_weights");
    std::printf("\n## %s: %d x %d, %d copies in a row; SMs: GB/s of weights\n", shape.name,
                shape.rows, shape.depth, copies);
    std::vector<uint16_t> reference;
    Case c{weights, k_tiles, row_blocks, device.sm_count, &reference};
    measure<8, Split::kAlternate>(c, false);
    measure<8, Split::kAlternate>(c, true);
    measure<16, Split::kAlternate>(c, false);
    measure<16, Split::kHalves>(c, false);
    measure<24, Split::kAlternate>(c, false);
    measure<32, Split::kAlternate>(c, false);
    measure<32, Split::kHalves>(c, false);
    measure<32, Split::kHalves>(c, true);
    measure<64, Split::kAlternate>(c, false);
    measure<64, Split::kHalves>(c, false);
  }
  return 0;
}
