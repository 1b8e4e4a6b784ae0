// What the links between two GPUs carry: tiles of 8 KB put by a few SMs the way storers put them,
// beside copies by the copy engines.
//
// bench_puts            needs two GPUs
#include <algorithm>
#include <array>
#include <cstdio>
#include <vector>

#include "device_array.hpp"
#include "machine/cuda/devices.hpp"
#include "machine/cuda/handles.hpp"
#include "require_gpu.hpp"
#include "terrazzo/arch/sm90/bulk_copy.hpp"
#include "terrazzo/arch/sm90/counter.hpp"
#include "terrazzo/arch/sm90/fence.hpp"
#include "terrazzo/arch/sm90/mbarrier.hpp"
#include "terrazzo/core/geometry.hpp"

namespace terrazzo {
namespace {

using cuda::check_cuda;
using testing::DeviceArray;

constexpr uint32_t kStorers = kNumConsumers;    // of an SM, a warp each
constexpr uint32_t kTiles = kPanelsPerColTile;  // of a storer's output: 64 x 256 of bf16
constexpr uint32_t kWords = kStageBytes / sizeof(uint32_t);
constexpr uint64_t kBytes = 512ULL << 20;  // put each way
constexpr uint32_t kSharedBytes = kStorers * kTiles * kStageBytes;
constexpr uint32_t kManyTiles = 1U << 20;  // more than a storer puts
constexpr int kRepeats = 5;

struct Manner {
  const char* name;
  uint32_t piece_bytes;
  uint32_t tiles_per_signal;  // then a storer waits until they are there
  bool waits;                 // until a tile was read before the next one, as storers do
};

__device__ __host__ constexpr uint32_t word_of(uint32_t storer, uint32_t word) {
  return storer << 16 | (word & 0xffffu);
}

/// Where a storer's tile goes, as outputs of [128, 256] lie one after the other: half a panel, of
/// the panel `tile % kTiles` of the output of this SM's turn.
__device__ __host__ constexpr uint64_t place_of(uint32_t sm, uint32_t sms, uint32_t storer,
                                                uint32_t tile) {
  const uint64_t output = uint64_t{tile / kTiles} * sms + sm;
  return ((output * kTiles + tile % kTiles) * kStorers + storer) * kStageBytes;
}

/// Every storer puts its tiles.
__global__ void __launch_bounds__(kStorers * 32)
    put_tiles(std::byte* target, uint32_t* counter, uint32_t tiles_each, Manner manner) {
  extern __shared__ __align__(1024) std::byte stages[];
  const uint32_t warp = threadIdx.x / 32;
  const uint32_t storer = blockIdx.x * kStorers + warp;
  auto* const own = reinterpret_cast<uint32_t*>(stages + warp * kTiles * kStageBytes);
  for (uint32_t i = threadIdx.x % 32; i < kTiles * kWords; i += 32) {
    own[i] = word_of(storer, i);
  }
  sm90::fence_proxy_async_shared();
  __syncwarp();
  const uint32_t source = sm90::shared_address(own);
  const uint32_t pieces = kStageBytes / manner.piece_bytes;
  for (uint32_t tile = 0; tile < tiles_each; ++tile) {
    const uint32_t stage = tile % kTiles * kStageBytes;
    std::byte* const to = target + place_of(blockIdx.x, gridDim.x, warp, tile);
    for (uint32_t piece = threadIdx.x % 32; piece < pieces; piece += 32) {
      const uint32_t offset = piece * manner.piece_bytes;
      sm90::bulk_store_async(to + offset, source + stage + offset, manner.piece_bytes);
    }
    sm90::bulk_commit_group();
    if (manner.waits) {
      sm90::bulk_wait_group_read();
    } else {
      sm90::bulk_wait_group_read<kTiles - 1>();
    }
    __syncwarp();
    if (tile + 1 == tiles_each || (tile + 1) % manner.tiles_per_signal == 0) {
      sm90::bulk_wait_group();
      __syncwarp();
      if (threadIdx.x % 32 == 0) {
        sm90::red_release_add_sys(counter, 1);
      }
    }
  }
}

/// One GPU's side.
struct Side {
  int device;
  cuda::Stream stream;
  cuda::Event begin{cudaEventDefault};
  cuda::Event end{cudaEventDefault};
  DeviceArray<std::byte> received{kBytes};
  DeviceArray<std::byte> own{kBytes};
  DeviceArray<uint32_t> counter{1};

  explicit Side(int device) : device(device) {
    check_cuda(cudaFuncSetAttribute(put_tiles, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                    static_cast<int>(kSharedBytes)));
  }
};

/// GB/s one way of `run(from, to)` on each of `senders` sides at once, the slower one's.
template <class F>
double rate(std::vector<Side*>& sides, uint32_t senders, F run) {
  std::vector<double> rates;
  for (int i = 0; i <= kRepeats; ++i) {
    for (uint32_t s = 0; s < senders; ++s) {
      check_cuda(cudaSetDevice(sides[s]->device));
      sides[s]->begin.record(sides[s]->stream.get());
      run(*sides[s], *sides[1 - s]);
      sides[s]->end.record(sides[s]->stream.get());
    }
    float longest = 0;
    for (uint32_t s = 0; s < senders; ++s) {
      check_cuda(cudaSetDevice(sides[s]->device));
      sides[s]->end.wait();
      float ms = 0;
      check_cuda(cudaEventElapsedTime(&ms, sides[s]->begin.get(), sides[s]->end.get()));
      longest = std::max(longest, ms);
    }
    if (i > 0) {
      rates.push_back(kBytes * 1e-6 / longest);
    }
  }
  std::nth_element(rates.begin(), rates.begin() + kRepeats / 2, rates.end());
  return rates[kRepeats / 2];
}

constexpr uint32_t tiles_each(uint32_t sms) {
  return static_cast<uint32_t>(kBytes / kStageBytes / (sms * kStorers));
}

void put(Side& from, Side& to, uint32_t sms, const Manner& manner) {
  put_tiles<<<sms, kStorers * 32, kSharedBytes, from.stream.get()>>>(
      to.received.get(), to.counter.get(), tiles_each(sms), manner);
  check_cuda(cudaGetLastError());
}

/// Whether what 16 SMs put has arrived, and the signals: every word says who wrote it. A storer's
/// stages repeat, so a tile could be the one four before it.
bool has_arrived(Side& from, Side& to, const Manner& manner) {
  constexpr uint32_t kSms = 16;
  check_cuda(cudaSetDevice(to.device));
  check_cuda(cudaMemset(to.received.get(), 0xff, kBytes));
  check_cuda(cudaMemset(to.counter.get(), 0, sizeof(uint32_t)));
  check_cuda(cudaDeviceSynchronize());
  check_cuda(cudaSetDevice(from.device));
  put(from, to, kSms, manner);
  check_cuda(cudaDeviceSynchronize());
  check_cuda(cudaSetDevice(to.device));
  const uint32_t signals = kSms * kStorers * ceil_div(tiles_each(kSms), manner.tiles_per_signal);
  if (to.counter.read()[0] != signals) {
    std::printf("FAIL: %s: %u signals, expected %u\n", manner.name, to.counter.read()[0], signals);
    return false;
  }
  const std::vector<std::byte> bytes = to.received.read();
  const auto* const words = reinterpret_cast<const uint32_t*>(bytes.data());
  for (uint32_t tile = 0; tile < tiles_each(kSms); ++tile) {
    for (uint32_t storer = 0; storer < kSms * kStorers; ++storer) {
      const uint64_t first =
          place_of(storer / kStorers, kSms, storer % kStorers, tile) / sizeof(uint32_t);
      for (uint32_t i = 0; i < kWords; ++i) {
        if (words[first + i] != word_of(storer, tile % kTiles * kWords + i)) {
          std::printf("FAIL: %s: tile %u of storer %u, word %u is %08x\n", manner.name, tile,
                      storer, i, words[first + i]);
          return false;
        }
      }
    }
  }
  return true;
}

int run() {
  check_cuda(cudaSetDevice(0));
  cuda::open_devices(2);
  check_cuda(cudaSetDevice(0));
  Side first(0);
  check_cuda(cudaSetDevice(1));
  Side second(1);
  std::vector<Side*> sides{&first, &second};
  const auto copy = [](Side& from, Side& to) {
    check_cuda(cudaMemcpyPeerAsync(to.received.get(), to.device, from.own.get(), from.device,
                                   kBytes, from.stream.get()));
  };
  const std::array<double, 2> copied{rate(sides, 1, copy), rate(sides, 2, copy)};
  std::printf("copy engines: %.0f GB/s one way, %.0f each way at once\n", copied[0], copied[1]);
  for (const Manner& manner :
       {Manner{"8 KB tiles, 4 at once", kStageBytes, kManyTiles, false},
        Manner{"8 KB tiles", kStageBytes, kManyTiles, true},
        Manner{"8 KB tiles, a signal after 4", kStageBytes, kTiles, true},
        Manner{"rows of 128 bytes, a signal after 4 tiles", 128, kTiles, true}}) {
    if (!has_arrived(first, second, manner) || !has_arrived(second, first, manner)) {
      return 1;
    }
    for (const uint32_t sms : {1U, 2U, 4U, 8U, 16U, 32U, 64U, 128U}) {
      const auto run = [&](Side& from, Side& to) { put(from, to, sms, manner); };
      const std::array<double, 2> seen{rate(sides, 1, run), rate(sides, 2, run)};
      std::printf("%s, %3u SMs: %.0f GB/s one way (%.2f of copies), %.0f each way at once (%.2f)\n",
                  manner.name, sms, seen[0], seen[0] / copied[0], seen[1], seen[1] / copied[1]);
    }
  }
  return 0;
}

}  // namespace
}  // namespace terrazzo

int main() {
  terrazzo::testing::require_gpu(2);
  return terrazzo::run();
}
