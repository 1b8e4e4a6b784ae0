// Lanes do what PTX says, and find what a kernel forgets: a barrier, a wait for products, a wait
// for a store.
#include <cuda_runtime.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "check.hpp"
// Stand-ins for PTX.
#include "terrazzo/arch/sm90/bulk_copy.hpp"
#include "terrazzo/arch/sm90/fence.hpp"
#include "terrazzo/arch/sm90/matrix.hpp"
#include "terrazzo/arch/sm90/mbarrier.hpp"
#include "terrazzo/arch/sm90/special.hpp"
#include "terrazzo/arch/sm90/wgmma.hpp"
#include "terrazzo/core/geometry.hpp"

namespace terrazzo {
namespace {

using lanes::kSharedBase;

constexpr uint32_t kSeeds = 60;
constexpr uint32_t kGroupThreads = 128;
constexpr uint32_t kTile = kSharedBase;  // addresses of three tiles and a barrier
constexpr uint32_t kOther = kTile + kHalfPanelBytes;
constexpr uint32_t kThird = kOther + kHalfPanelBytes;
constexpr uint32_t kBarrier = kThird + kHalfPanelBytes;

/// Runs `body(block, thread)` in a block of `threads` threads.
template <class Body>
void run(uint32_t threads, uint64_t seed, Body body) {
  lanes::Block block(threads);
  block.body = [&](uint32_t thread) { body(block, thread); };
  lanes::Launch launch({&block}, seed);
  launch.run();
  CHECK(launch.is_drained());
}

float value_at(uint32_t row, uint32_t column) {
  return static_cast<float>(static_cast<int>((row * 37 + column * 11) % 17) - 8) / 8.0F;
}

void store_element(const lanes::Block& block, uint32_t tile, uint32_t row, uint32_t column,
                   float value) {
  const bf16 rounded = to_bf16(value);
  std::memcpy(block.at(tile + element_offset(row, column)), &rounded, sizeof(rounded));
}

/// Rows of a [64, 64] tile, by the thread's share.
void fill_tile(const lanes::Block& block, uint32_t tile, uint32_t thread, uint32_t salt) {
  for (uint32_t i = thread; i < 64 * 64; i += kGroupThreads) {
    store_element(block, tile, i / 64, i % 64, value_at(i / 64 + salt, i % 64));
  }
}

TERRAZZO_TEST(collectives_of_a_warp) {
  run(32, 1, [](const lanes::Block&, uint32_t lane) {
    CHECK_EQ(__shfl_xor_sync(~0u, lane, 5), lane ^ 5);
    CHECK_EQ(__shfl_sync(~0u, 2.5F * static_cast<float>(lane), 7), 17.5F);
    CHECK_EQ(__shfl_up_sync(~0u, uint64_t{lane} << 40, 1),
             uint64_t{lane == 0 ? 0 : lane - 1} << 40);
    CHECK_EQ(__ballot_sync(~0u, lane % 2 == 0), 0x55555555u);
    CHECK(__any_sync(~0u, lane == 31) != 0);
    CHECK(__any_sync(~0u, false) == 0);
    CHECK_EQ(__reduce_add_sync(~0u, lane), 496u);
    CHECK_EQ(sm90::elect_one(), lane == 0);
  });
}

TERRAZZO_TEST(matrices_come_back) {
  run(32, 2, [](const lanes::Block& block, uint32_t lane) {
    const uint32_t words[4] = {lane, lane + 100, lane + 200, lane + 300};
    const uint32_t row = kTile + lane * 16;
    sm90::store_matrices(row, words);
    uint32_t seen[4];
    sm90::load_matrices(seen, row);
    for (uint32_t i = 0; i < 4; ++i) {
      CHECK_EQ(seen[i], words[i]);
    }
    // Transposed twice, they are what they were.
    sm90::store_matrices_transposed(kTile + lane % 16 * 16, words[0], words[1]);
    __syncwarp();
    sm90::load_matrices_transposed(seen, row);
    CHECK_EQ(seen[0], words[0]);
    CHECK_EQ(seen[1], words[1]);
    // Row 1 of the first matrix is column 1 of what lanes hold in rows.
    uint16_t element = 0;
    std::memcpy(&element, block.at(kTile + 16 + 2 * 3), sizeof(element));
    CHECK_EQ(element, 0u);  // the upper half of the word of lane 12
    std::memcpy(&element, block.at(kTile + 2 * 3), sizeof(element));
    CHECK_EQ(element, 12u);
  });
}

/// d[64, 64] = a b^T by wgmma, A from shared memory or from registers, B by rows or by columns, and
/// by mma.sync for the first 8 columns: all as in plain loops.
TERRAZZO_TEST(products_in_all_forms) {
  for (uint64_t seed = 0; seed < 8; ++seed) {
    run(kGroupThreads, seed, [](const lanes::Block& block, uint32_t thread) {
      fill_tile(block, kTile, thread, 0);
      fill_tile(block, kOther, thread, 5);
      for (uint32_t i = thread; i < 64 * 64; i += kGroupThreads) {  // [k][column]
        store_element(block, kThird, i % 64, i / 64, value_at(i / 64 + 5, i % 64));
      }
      sm90::named_barrier_sync(1, kGroupThreads);
      const uint32_t lane = thread % 32;
      const uint32_t first_row = thread / 32 * 16;
      float by_tiles[32] = {};
      float by_fragments[32] = {};
      float by_columns[32] = {};
      float by_warp[4] = {};
      uint32_t steps[4][4];
      for (uint32_t step = 0; step < 4; ++step) {
        sm90::load_matrices(steps[step],
                            kTile + chunk_offset(first_row + lane % 16, step * 2 + lane / 16));
      }
      for (uint32_t step = 0; step < 4; ++step) {
        const uint64_t rows = sm90::k_major_descriptor(kOther + step * 32);
        sm90::wgmma_async<false, false>(by_tiles, sm90::k_major_descriptor(kTile + step * 32), rows,
                                        1);
        sm90::wgmma_async<false>(by_fragments, steps[step], rows, step != 0);
        sm90::wgmma_async<true>(
            by_columns, steps[step],
            sm90::tile_descriptor(kThird + step * 16 * kRowBytes, kHalfPanelBytes, 1024), 1);
      }
      sm90::wgmma_commit();
      sm90::wgmma_wait<0>();
      for (uint32_t pair = 0; pair < 2; ++pair) {
        uint32_t b[4];
        sm90::load_matrices(b, kOther + chunk_offset(lane % 8, pair * 4 + lane / 8));
        sm90::multiply_matrices(by_warp, steps[2 * pair], b[0], b[1]);
        sm90::multiply_matrices(by_warp, steps[2 * pair + 1], b[2], b[3]);
      }
      for (uint32_t i = 0; i < 32; ++i) {
        const uint32_t row = first_row + lane / 4 + i % 4 / 2 * 8;
        const uint32_t column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        float expected = 0;
        for (uint32_t k = 0; k < 64; ++k) {
          expected += value_at(row, k) * value_at(column + 5, k);
        }
        CHECK_EQ(by_tiles[i], expected);
        CHECK_EQ(by_fragments[i], expected);
        CHECK_EQ(by_columns[i], expected);
        if (i < 4) {
          CHECK_EQ(by_warp[i], expected);
        }
      }
    });
  }
}

/// How many seeds show something wrong.
template <class Body>
uint32_t wrong_seeds(uint32_t threads, Body body) {
  uint32_t wrong = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    bool is_wrong = false;
    run(threads, seed,
        [&](const lanes::Block& block, uint32_t thread) { is_wrong |= body(block, thread); });
    wrong += is_wrong ? 1 : 0;
  }
  return wrong;
}

/// Warps show each other a value; `synced`: with a barrier between.
uint32_t wrong_exchanges(bool synced) {
  return wrong_seeds(kGroupThreads, [=](const lanes::Block& block, uint32_t thread) {
    const uint32_t own = thread + 1;
    std::memcpy(block.at(kTile + thread * 4), &own, 4);
    if (synced) {
      sm90::named_barrier_sync(1, kGroupThreads);
    }
    const uint32_t other = (thread + 32) % kGroupThreads;
    uint32_t seen = 0;
    std::memcpy(&seen, block.at(kTile + other * 4), 4);
    return seen != other + 1;
  });
}

/// A lane shows its warp a value; `synced`: with a barrier between.
uint32_t wrong_broadcasts(bool synced) {
  return wrong_seeds(32, [=](const lanes::Block& block, uint32_t lane) {
    __syncwarp();
    const uint32_t value = 7;
    if (lane == 0) {
      std::memcpy(block.at(kTile), &value, 4);
    }
    if (synced) {
      __syncwarp();
    }
    uint32_t seen = 0;
    std::memcpy(&seen, block.at(kTile), 4);
    return seen != value;
  });
}

TERRAZZO_TEST(a_forgotten_barrier_of_a_warp_is_found) {
  CHECK_EQ(wrong_broadcasts(true), 0u);
  CHECK(wrong_broadcasts(false) > 0);
}

TERRAZZO_TEST(a_forgotten_barrier_is_found) {
  CHECK_EQ(wrong_exchanges(true), 0u);
  CHECK(wrong_exchanges(false) > 0);
}

/// Operands are overwritten once the products are waited for, or before.
uint32_t wrong_products(bool waits) {
  return wrong_seeds(kGroupThreads, [=](const lanes::Block& block, uint32_t thread) {
    fill_tile(block, kTile, thread, 0);
    fill_tile(block, kOther, thread, 5);
    sm90::named_barrier_sync(1, kGroupThreads);
    float d[32] = {};
    sm90::wgmma_async<false, false>(d, sm90::k_major_descriptor(kTile),
                                    sm90::k_major_descriptor(kOther), 1);
    sm90::wgmma_commit();
    if (waits) {
      sm90::wgmma_wait<0>();
    }
    sm90::named_barrier_sync(1, kGroupThreads);
    fill_tile(block, kOther, thread, 6);
    sm90::wgmma_wait<0>();
    float expected = 0;
    for (uint32_t k = 0; k < 16; ++k) {
      expected += value_at(thread / 32 * 16 + thread % 32 / 4, k) * value_at(thread % 4 * 2 + 5, k);
    }
    return d[0] != expected;
  });
}

TERRAZZO_TEST(operands_that_go_too_early_are_found) {
  CHECK_EQ(wrong_products(true), 0u);
  CHECK(wrong_products(false) > 0);
}

/// A tile goes out and, once it was read, is written again.
uint32_t wrong_stores(bool waits) {
  uint32_t wrong = 0;
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    alignas(16) float target[32] = {};
    run(32, seed, [&](const lanes::Block& block, uint32_t lane) {
      const float value = 1;
      std::memcpy(block.at(kTile + lane * 4), &value, 4);
      __syncwarp();
      if (lane == 0) {
        sm90::bulk_store_async(target, kTile, sizeof(target));
        sm90::bulk_commit_group();
        if (waits) {
          sm90::bulk_wait_group_read();
        }
      }
      __syncwarp();
      const float next = 2;
      std::memcpy(block.at(kTile + lane * 4), &next, 4);
      __syncwarp();
      if (lane == 0) {
        sm90::bulk_wait_group();
      }
    });
    wrong += target[5] != 1 ? 1 : 0;
  }
  return wrong;
}

TERRAZZO_TEST(stages_that_are_written_too_early_are_found) {
  CHECK_EQ(wrong_stores(true), 0u);
  CHECK(wrong_stores(false) > 0);
}

/// A load completes its barrier when its bytes are there, not before.
TERRAZZO_TEST(loads_complete_their_barriers) {
  alignas(16) uint32_t source[64];
  for (uint32_t i = 0; i < 64; ++i) {
    source[i] = i * i;
  }
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    run(64, seed, [&](const lanes::Block& block, uint32_t thread) {
      if (thread == 0) {
        sm90::mbarrier_init(kBarrier, 1);
      }
      __syncthreads();
      for (uint32_t round = 0; round < 4; ++round) {
        if (thread == 0) {
          sm90::mbarrier_arrive_expect(kBarrier, sizeof(source));
          sm90::bulk_load_async(kTile, source, 128, kBarrier);
          sm90::bulk_load_async(kTile + 128, source + 32, 128, kBarrier);
        }
        while (!sm90::mbarrier_try_wait_parity(kBarrier, round % 2)) {
        }
        uint32_t seen = 0;
        std::memcpy(&seen, block.at(kTile + thread * 4), 4);
        CHECK_EQ(seen, thread * thread);
        __syncthreads();
        std::memset(block.at(kTile + thread * 4), 0xff, 4);
        __syncthreads();
      }
    });
  }
}

}  // namespace
}  // namespace terrazzo
