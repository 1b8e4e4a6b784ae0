// Micro-benchmark of arch/host/simd: rates of one core and, for weight streaming, of two threads.
// Build by hand: g++ -std=c++20 -O3 -ffp-contract=off -Iinclude tests/cpp/bench_host_simd.cpp
// -pthread Each figure is the best of several repetitions, because other work may share the cores.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "terrazzo/arch/host/simd/simd.hpp"

namespace {

using namespace terrazzo;
using namespace terrazzo::host;

constexpr std::size_t kAlign = 1024;

struct AlignedFree {
  void operator()(std::byte* p) const { ::operator delete(p, std::align_val_t{kAlign}); }
};
using Bytes = std::unique_ptr<std::byte, AlignedFree>;

/// `bytes` of bf16 values in (-2, 2) excluding tiny ones.
Bytes random_tiles(std::size_t bytes, uint32_t seed) {
  Bytes out(static_cast<std::byte*>(::operator new(bytes, std::align_val_t{kAlign})));
  std::minstd_rand engine(seed);
  for (std::size_t i = 0; i < bytes; i += sizeof(bf16)) {
    const float x = (static_cast<float>(engine() % 4001) - 2000.0f) / 1000.0f;
    const bf16 value = to_bf16(x);
    std::memcpy(out.get() + i, &value, sizeof value);
  }
  return out;
}

/// Seconds of the fastest of `repeats` runs.
template <class Body>
double best_seconds(int repeats, const Body& body) {
  double best = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const auto start = std::chrono::steady_clock::now();
    body();
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    best = std::min(best, took.count());
  }
  return best;
}

void bench_prefill(const Kernels& kernels, uint32_t rows, uint32_t k) {
  constexpr uint32_t kCols = 256;
  const uint32_t panels = k / kPanelCols;
  const Bytes a = random_tiles(std::size_t{panels} * kHalfPanelBytes, 1);
  const Bytes b = random_tiles(std::size_t{panels} * kCols * kRowBytes, 2);
  std::vector<float> acc(rows * kCols);
  const double seconds = best_seconds(15, [&] {
    for (uint32_t p = 0; p < panels; ++p) {
      kernels.gemm_panel(acc.data(), kCols, a.get() + p * kHalfPanelBytes,
                         b.get() + std::size_t{p} * kCols * kRowBytes, rows, kCols);
    }
  });
  std::printf("  gemm %2u x %u, K = %4u: %6.1f GFLOP/s\n", rows, kCols, k,
              2.0 * rows * kCols * k / seconds * 1e-9);
}

/// Processor time of this thread, which other work on the cores does not add to.
double thread_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

void bench_stream(const Kernels& kernels, uint32_t rows, uint32_t num_threads) {
  constexpr uint32_t kCols = 256;
  constexpr std::size_t kTile = kCols * kRowBytes;
  constexpr std::size_t kTiles = (200u << 20) / kTile;
  const Bytes a = random_tiles(kHalfPanelBytes, 1);
  const Bytes b = random_tiles(kTiles * kTile, 2);
  std::vector<double> best(num_threads, 1e30);
  const auto run = [&](uint32_t thread) {
    std::vector<float> acc(rows * kCols);
    const double start = thread_seconds();
    for (std::size_t t = kTiles * thread / num_threads; t < kTiles * (thread + 1) / num_threads;
         ++t) {
      kernels.gemm_panel(acc.data(), kCols, a.get(), b.get() + t * kTile, rows, kCols);
    }
    best[thread] = std::min(best[thread], thread_seconds() - start);
  };
  for (int repeat = 0; repeat < 8; ++repeat) {
    std::vector<std::thread> threads;
    for (uint32_t t = 1; t < num_threads; ++t) {
      threads.emplace_back(run, t);
    }
    run(0);
    for (std::thread& thread : threads) {
      thread.join();
    }
  }
  const double seconds = *std::max_element(best.begin(), best.end());
  std::printf("  stream %u rows, 200 MB, %u thread(s): %5.2f GB/s\n", rows, num_threads,
              static_cast<double>(kTiles * kTile) / seconds * 1e-9);
}

/// The same from a tile that stays in the L1/L2 cache: the cost of the instructions alone.
void bench_cached_stream(const Kernels& kernels, uint32_t rows) {
  constexpr uint32_t kCols = 256;
  constexpr int kCalls = 100;  // short, to fit between interruptions
  const Bytes a = random_tiles(kHalfPanelBytes, 1);
  const Bytes b = random_tiles(kCols * kRowBytes, 2);
  std::vector<float> acc(rows * kCols);
  const double seconds = best_seconds(200, [&] {
    for (int i = 0; i < kCalls; ++i) {
      kernels.gemm_panel(acc.data(), kCols, a.get(), b.get(), rows, kCols);
    }
  });
  const double weights = double{kCols} * kPanelCols * kCalls;
  std::printf("  cached %u rows: %.3f ns a weight (%5.1f GB/s of weights)\n", rows,
              seconds / weights * 1e9, weights * 2 / seconds * 1e-9);
}

void bench_attention(const Kernels& kernels, uint32_t rows, uint32_t head_panels) {
  constexpr uint32_t kPages = 32;
  const uint32_t head_dim = head_panels * kPanelCols;
  const std::size_t half_page = std::size_t{head_panels} * kHalfPanelBytes;
  const Bytes q = random_tiles(2 * kHalfPanelBytes, 1);
  const Bytes k = random_tiles(kPages * half_page, 2);
  const Bytes v = random_tiles(kPages * half_page, 3);
  std::vector<float> out(rows * head_dim);
  std::vector<float> max(rows);
  std::vector<float> sum(rows);
  const std::vector<uint32_t> limits(rows, kPageTokens);
  const AttentionState state{out.data(), max.data(), sum.data()};
  const double seconds = best_seconds(20, [&] {
    attention_clear(state, rows, head_dim);
    for (uint32_t page = 0; page < kPages; ++page) {
      kernels.attention_page(state, q.get(), kHalfPanelBytes, k.get() + page * half_page,
                             v.get() + page * half_page, rows, head_panels, limits.data(), 0.05f);
    }
  });
  std::printf("  attention %2u rows, hd %3u: %6.2f us a page, %6.1f GFLOP/s\n", rows, head_dim,
              seconds / kPages * 1e6,
              4.0 * rows * head_dim * kPageTokens * kPages / seconds * 1e-9);
}

void bench_rows(const Kernels& kernels) {
  constexpr uint32_t kCount = 4096;
  std::vector<float> x(kCount);
  std::vector<float> y(kCount);
  for (uint32_t i = 0; i < kCount; ++i) {
    x[i] = static_cast<float>(i % 100) * 0.1f - 5.0f;
  }
  const auto report = [](const char* name, double seconds) {
    std::printf("  %-20s %6.3f ns an element\n", name, seconds / kCount * 1e9);
  };
  report("exp2_row", best_seconds(50, [&] { kernels.exp2_row(y.data(), x.data(), kCount); }));
  report("silu_mul",
         best_seconds(50, [&] { kernels.silu_mul(y.data(), x.data(), x.data(), kCount); }));
  report("perturb_row", best_seconds(50, [&] {
           kernels.perturb_row(y.data(), x.data(), 1.25f, 7, 3, 0, kCount);
         }));
  report("max_and_sum_exp_row",
         best_seconds(50, [&] { y[0] += kernels.max_and_sum_exp_row(x.data(), kCount).sum; }));
  const Bytes tile = random_tiles(kHalfPanelBytes, 1);
  report("round_store_row", best_seconds(50, [&] {
           for (uint32_t row = 0; row < kPageTokens; ++row) {
             kernels.round_store_row(tile.get(), row, x.data() + row * kPanelCols, kPanelCols);
           }
         }));
  report("load_row", best_seconds(50, [&] {
           for (uint32_t row = 0; row < kPageTokens; ++row) {
             kernels.load_row(y.data() + row * kPanelCols, tile.get(), row, kPanelCols);
           }
         }));
  report("sum_squares_row", best_seconds(50, [&] {
           for (uint32_t row = 0; row < kPageTokens; ++row) {
             y[row] = kernels.sum_squares_row(tile.get(), row);
           }
         }));
}

void bench_level(SimdLevel level) {
  const Kernels& k = kernels(level);
  std::printf("%s\n", simd_level_name(level));
  bench_prefill(k, 64, 576);
  bench_prefill(k, 64, 4096);
  bench_prefill(k, 16, 576);
  for (const uint32_t rows : {1u, 2u, 4u, 8u}) {
    bench_cached_stream(k, rows);
  }
  bench_stream(k, 1, 1);
  bench_stream(k, 1, 2);
  bench_stream(k, 8, 1);
  for (const uint32_t head_panels : {1u, 2u}) {
    for (const uint32_t rows : {1u, 3u, 16u, 64u}) {
      bench_attention(k, rows, head_panels);
    }
  }
  bench_rows(k);
}

}  // namespace

/// Optional arguments: the levels to run (baseline, avx2, avx512); default: the best one.
int main(int argc, char** argv) {
  for (const SimdLevel level : {SimdLevel::avx512, SimdLevel::avx2, SimdLevel::baseline}) {
    bool wanted = argc < 2 && level == best_simd_level();
    for (int i = 1; i < argc; ++i) {
      wanted = wanted || argv[i] == std::string(simd_level_name(level));
    }
    if (wanted && simd_level_supported(level)) {
      bench_level(level);
    }
  }
  return 0;
}
