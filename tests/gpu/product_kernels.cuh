// Bodies around the product verbs: one consumer's rows of a tile, slots filled by its threads.
#pragma once

#include <type_traits>

#include "terrazzo/arch/sm90/fence.hpp"
#include "terrazzo/tile/sm90/mma.hpp"
#include "tile_memory.cuh"
#include "tile_twin.hpp"

namespace terrazzo::testing {

/// What a product reads and writes, on the device.
struct ProductRun {
  const std::byte* tokens;   // [k tile][128] swizzled rows
  const std::byte* weights;  // [k tile][256] swizzled rows
  float* out;                // [64][256]
  ProductPart part;
};

/// By the whole block: what was filled becomes visible to products.
__device__ __forceinline__ void end_fill() {
  sm90::fence_proxy_async_shared();
  __syncthreads();
}

template <uint32_t kPanels, class Acc>
__device__ __forceinline__ void write_product(const ProductRun& run, Acc& acc) {
  const ProductPart& part = run.part;
  for_each_accumulator(acc, [&](float& value, uint32_t row, uint32_t column) TERRAZZO_LAMBDA {
    if (column < kPanels * kPanelCols && row < part.rows && column < part.panels * kPanelCols) {
      run.out[row * kColTile + column] = value;
    }
  });
}

/// Two k tiles' slots: while one multiplies, the other is filled.
struct alignas(1024) ProductMemory {
  std::byte tokens[2][kSlotBytes];
  std::byte weights[2][2 * kSlotBytes];
};

/// A plain tile of kPanels panels, as a consumer's main loop.
template <uint32_t kPanels>
struct WideProduct {
  using Memory = ProductMemory;
  ProductRun run;

  __device__ __forceinline__ void operator()(Memory& memory) const {
    sm90::Accumulator acc;
    const ProductPart& part = run.part;
    clear(acc, part.rows);
    uint32_t k = 0;
    do {
      std::byte* const tokens = memory.tokens[k % 2];
      std::byte* const weights = memory.weights[k % 2];
      copy_bytes(tokens, run.tokens + k * kSlotBytes, kSlotBytes);
      copy_bytes(weights, run.weights + weight_offset(k, part.first_panel),
                 kPanels * kHalfPanelBytes);
      end_fill();
      const uint32_t address = sm90::shared_address(weights);
      mma_async<kPanels>(acc, sm90::Slot{sm90::shared_address(tokens), 0}, part.first_row,
                         sm90::Slot{address, 1}, sm90::Slot{address + kSlotBytes, 2}, part.rows,
                         part.panels);
      sm90::mma_wait<1>(acc);
    } while (++k < part.k_tiles);
    sm90::mma_wait<0>(acc);
    write_product<kPanels>(run, acc);
  }
};

/// Operands swapped, kTurn k tiles at once. `kPaired`: both weight slots are the same one.
template <uint32_t kPanels, uint32_t kTokens, uint32_t kTurn, bool kPaired>
struct SmallProduct {
  using Memory = ProductMemory;
  ProductRun run;

  /// The tokens and weights of kCount k tiles, and their product.
  template <uint32_t kCount>
  __device__ __forceinline__ void multiply(Memory& memory, sm90::SmallAccumulator& acc, uint32_t k,
                                           uint32_t turn) const {
    const ProductPart& part = run.part;
    std::byte* const tokens = memory.tokens[turn % 2];
    std::byte* const weights = memory.weights[turn % 2];
    for (uint32_t i = 0; i < kCount; ++i) {
      copy_bytes(tokens + i * part.token_stride(), run.tokens + (k + i) * kSlotBytes,
                 part.token_stride());
      copy_bytes(weights + i * kPanels * kHalfPanelBytes,
                 run.weights + weight_offset(k + i, part.first_panel), kPanels * kHalfPanelBytes);
    }
    end_fill();
    const uint32_t address = sm90::shared_address(weights);
    mma_small_async<kPanels, kTokens, kCount>(
        acc, sm90::Slot{sm90::shared_address(tokens), 0}, part.first_row * kRowBytes,
        part.token_stride(), sm90::Slot{address, 1},
        sm90::Slot{address + (kPaired ? 0 : kSlotBytes), 2}, part.rows, part.panels);
  }

  __device__ __forceinline__ void operator()(Memory& memory) const {
    sm90::SmallAccumulator acc;
    const uint32_t k_tiles = run.part.k_tiles;
    clear(acc, run.part.rows);
    uint32_t k = 0;
    uint32_t turn = 0;
    for (; k + kTurn <= k_tiles; k += kTurn, ++turn) {
      multiply<kTurn>(memory, acc, k, turn);
      sm90::mma_wait<1>(acc);
    }
    sm90::mma_wait<0>(acc);
    if constexpr (kTurn == 4) {
      if (k + 2 <= k_tiles) {
        multiply<2>(memory, acc, k, turn);
        sm90::mma_wait<0>(acc);
        k += 2;
        ++turn;
      }
    }
    if constexpr (kTurn != 1) {
      if (k < k_tiles) {
        multiply<1>(memory, acc, k, turn);
        sm90::mma_wait<0>(acc);
      }
    }
    write_product<kPanels>(run, acc);
  }
};

}  // namespace terrazzo::testing
