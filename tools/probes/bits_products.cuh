// The ways to compute one product that bits.cu compares.
#pragma once

#include "bits_data.cuh"
#include "probe.cuh"

namespace probe {

enum class ASource { kShared, kRegisters };
enum class Start { kZeroed, kScaleZero, kGiven };
enum class Group { kFourSteps, kOneStep };

// MN-major tiles: panels of 64 elements of the outer index, rows are k.
__host__ __device__ constexpr uint32_t panel_offset(uint32_t outer, uint32_t k) {
  return (outer / 64) * 8192 + k * 128 + ((((outer % 64) / 8) ^ (k & 7)) * 16) + (outer % 8) * 2;
}

template <bool kTransposed, int kColumns>
__device__ void fill_tile(char* tile, const uint16_t* source, int rows, int depth) {
  for (int i = threadIdx.x; i < rows * kColumns; i += blockDim.x) {
    int row = i / kColumns;
    int k = i % kColumns;
    uint32_t offset = kTransposed ? panel_offset(row, k) : swizzled(row, k);
    *reinterpret_cast<uint16_t*>(tile + offset) = source[size_t(row) * depth + k];
  }
}

// C[m][n] = sum over k of A[m][k] B[n][k], 64 x kN outputs a block; C is [kRows][kRows] fp32.
template <int kN, ASource kSource, bool kTransA, bool kTransB, Start kStart, Group kGroup>
__global__ void __launch_bounds__(128)
    wgmma_product(const uint16_t* a, const uint16_t* b, float* c, const float* start, int depth) {
  constexpr int kSteps = kStart == Start::kGiven ? 1 : 4;  // k16 steps a tile
  extern __shared__ __align__(1024) char shared[];
  char* tile_a = shared;
  char* tile_b = shared + 8192;
  int first_m = blockIdx.x * 64;
  int first_n = blockIdx.y * kN;
  int lane = threadIdx.x % 32;
  int row = first_m + (threadIdx.x / 32) * 16 + lane / 4;
  int column = first_n + (lane % 4) * 2;

  float d[kN / 2];
  for (int i = 0; i < kN / 2; ++i) {
    size_t at = size_t(row + (i % 4 / 2) * 8) * kRows + column + (i / 4) * 8 + i % 2;
    d[i] = kStart == Start::kGiven ? start[at] : 0.0f;
    if (kStart == Start::kScaleZero)
      d[i] = 1.0f;  // must be ignored
  }
  for (int k0 = 0; k0 < depth; k0 += kSteps * 16) {
    __syncthreads();
    fill_tile<kTransA, kSteps * 16>(tile_a, a + size_t(first_m) * depth + k0, 64, depth);
    fill_tile<kTransB, kSteps * 16>(tile_b, b + size_t(first_n) * depth + k0, kN, depth);
    fence_proxy_async_shared();
    __syncthreads();
    uint32_t fragments[kSteps][4];
    for (int step = 0; step < kSteps; ++step) {
      for (int i = 0; i < 4; ++i) {
        uint32_t r = (threadIdx.x / 32) * 16 + lane / 4 + (i % 2) * 8;
        uint32_t k = step * 16 + (lane % 4) * 2 + (i / 2) * 8;
        fragments[step][i] = *reinterpret_cast<uint32_t*>(tile_a + swizzled(r, k));
      }
    }
    for (float& value : d)
      pin_register(value);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      int scale = !(kStart == Start::kScaleZero && k0 == 0 && step == 0);
      uint64_t at_b = kTransB ? tile_descriptor(smem_address(tile_b) + step * 2048, 8192, 1024)
                              : tile_descriptor(smem_address(tile_b) + step * 32, 16, 1024);
      if constexpr (kSource == ASource::kRegisters) {
        wgmma_async<kTransB>(d, fragments[step], at_b, scale);
      } else {
        uint64_t at_a = kTransA ? tile_descriptor(smem_address(tile_a) + step * 2048, 8192, 1024)
                                : tile_descriptor(smem_address(tile_a) + step * 32, 16, 1024);
        wgmma_async<kTransA, kTransB>(d, at_a, at_b, scale);
      }
      if (kGroup == Group::kOneStep) {
        wgmma_commit();
        wgmma_wait<0>();
        for (float& value : d)
          pin_register(value);
        wgmma_fence();
      }
    }
    wgmma_commit();
    wgmma_wait<0>();
    for (float& value : d)
      pin_register(value);
  }
  for (int i = 0; i < kN / 2; ++i) {
    size_t at = size_t(row + (i % 4 / 2) * 8) * kRows + column + (i / 4) * 8 + i % 2;
    c[at] = d[i];
  }
}

// The same product by mma.sync m16n8k16; one warp, one 16 x 8 tile.
__global__ void __launch_bounds__(32)
    mma_sync_product(const uint16_t* a, const uint16_t* b, float* c, int depth) {
  int lane = threadIdx.x;
  int row = blockIdx.x * 16 + lane / 4;
  int column = blockIdx.y * 8 + lane / 4;  // of B
  float d[4] = {};
  for (int k0 = 0; k0 < depth; k0 += 16) {
    uint32_t fa[4];
    uint32_t fb[2];
    int k = k0 + (lane % 4) * 2;
    for (int i = 0; i < 4; ++i) {
      size_t at = size_t(row + (i % 2) * 8) * depth + k + (i / 2) * 8;
      fa[i] = *reinterpret_cast<const uint32_t*>(a + at);
    }
    for (int i = 0; i < 2; ++i) {
      fb[i] = *reinterpret_cast<const uint32_t*>(b + size_t(column) * depth + k + i * 8);
    }
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(fa[0]), "r"(fa[1]), "r"(fa[2]), "r"(fa[3]), "r"(fb[0]), "r"(fb[1]));
  }
  for (int i = 0; i < 4; ++i) {
    size_t at = size_t(row + (i / 2) * 8) * kRows + blockIdx.y * 8 + (lane % 4) * 2 + i % 2;
    c[at] = d[i];
  }
}

}  // namespace probe
