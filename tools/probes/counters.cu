// How long does a tile take from a producer's shared memory to a consumer's, with its signal?
// Pairs of blocks play ping-pong: one way is half a round trip.
#include "probe.cuh"

namespace {

using namespace probe;

constexpr int kTileBytes = 8192;
constexpr int kTileWords = kTileBytes / 4;
constexpr int kRounds = 2000;
constexpr int kSkip = 100;  // rounds before the clock runs

enum class Payload { kNone, kBulk, kPlain };
enum class Scope { kGpu, kSys };

struct Times {  // cycles summed over the rounds
  long long total, store, signal, load;
  int errors;
};

template <Scope kScope>
__device__ void add_release(uint32_t* counter) {
  if (kScope == Scope::kGpu) {
    asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
  } else {
    asm volatile("red.release.sys.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
  }
}

template <Scope kScope>
__device__ uint32_t load_acquire(uint32_t* counter) {
  uint32_t value;
  if (kScope == Scope::kGpu) {
    asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  } else {
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(counter) : "memory");
  }
  return value;
}

template <Payload kPayload, Scope kScope>
__global__ void __launch_bounds__(32, 1) ping_pong(char* tiles, uint32_t* counters, Times* times) {
  extern __shared__ __align__(128) char tile[];
  __shared__ uint64_t barrier_storage;
  uint32_t barrier = held_address(&barrier_storage);
  uint32_t tile_address = held_address(tile);
  uint32_t* words = reinterpret_cast<uint32_t*>(tile);
  int lane = threadIdx.x;
  int partner = blockIdx.x ^ 1;
  char* outbox = tiles + size_t(partner) * kTileBytes;
  char* inbox = tiles + size_t(blockIdx.x) * kTileBytes;
  uint32_t* signal = counters + 64 * partner;
  uint32_t* mine = counters + 64 * blockIdx.x;
  if (lane == 0)
    mbarrier_init(barrier, 1);
  fence_barrier_init();
  __syncwarp();

  Times sum{};
  auto send = [&](uint32_t stamp) {
    long long t0 = clock64();
    if (kPayload == Payload::kBulk) {
      for (int i = lane; i < kTileWords; i += 512)
        words[i] = stamp + i;
      fence_proxy_async_shared();
      __syncwarp();
      t0 = clock64();
      if (lane == 0) {
        bulk_store_async(outbox, tile_address, kTileBytes);
        bulk_commit();
        bulk_wait_complete();
      }
      __syncwarp();
    } else if (kPayload == Payload::kPlain) {
      for (int i = lane; i < kTileWords / 4; i += 32) {
        uint32_t first = stamp + i * 4;
        reinterpret_cast<uint4*>(outbox)[i] = make_uint4(first, first + 1, first + 2, first + 3);
      }
      __syncwarp();
    }
    long long t1 = clock64();
    if (lane == 0)
      add_release<kScope>(signal);
    sum.store += t1 - t0;
    sum.signal += clock64() - t1;
  };
  auto receive = [&](uint32_t stamp, uint32_t target) {
    long long give_up = clock64() + 4'000'000'000ll;
    if (lane == 0) {
      while (load_acquire<kScope>(mine) < target) {
        if (clock64() > give_up)
          __trap();
      }
    }
    __syncwarp();
    long long t0 = clock64();
    if (kPayload == Payload::kBulk) {
      if (lane == 0) {
        fence_proxy_async();
        mbarrier_expect(barrier, kTileBytes);
        bulk_load_async(tile_address, inbox, kTileBytes, barrier);
      }
      mbarrier_wait(barrier, (target - 1) & 1);
      sum.load += clock64() - t0;
      for (int i = lane; i < kTileWords; i += 512)
        sum.errors += words[i] != stamp + i;
      __syncwarp();
    } else if (kPayload == Payload::kPlain) {
      uint4 got[kTileWords / 128];
      for (int i = 0; i < kTileWords / 128; ++i) {
        got[i] = __ldcg(reinterpret_cast<uint4*>(inbox) + i * 32 + lane);
      }
      for (int i = 0; i < kTileWords / 128; ++i) {
        sum.errors += got[i].x != stamp + (i * 32 + lane) * 4;
      }
      sum.load += clock64() - t0;
    }
  };
  long long begin = 0;
  for (uint32_t round = 1; round <= kRounds + kSkip; ++round) {
    if (round == kSkip + 1) {
      sum = Times{0, 0, 0, 0, sum.errors};
      begin = clock64();
    }
    uint32_t stamp = round * 16384;
    if (blockIdx.x % 2 == 0) {
      send(stamp);
      receive(stamp + 8192, round);
    } else {
      receive(stamp, round);
      send(stamp + 8192);
    }
  }
  sum.total = clock64() - begin;
  sum.errors = __reduce_add_sync(~0u, sum.errors);
  if (lane == 0)
    times[blockIdx.x] = sum;
}

template <Payload kPayload, Scope kScope>
void measure(const char* name, int blocks, double ghz) {
  constexpr int kSharedBytes = 128 * 1024;  // one block an SM
  char* tiles = device_array<char>(size_t(blocks) * kTileBytes);
  uint32_t* counters = device_array<uint32_t>(64 * blocks);
  Times* times = device_array<Times>(blocks);
  PROBE_CHECK(cudaMemset(counters, 0, 64 * 4 * blocks));
  auto* kernel = ping_pong<kPayload, kScope>;
  PROBE_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  kernel<<<blocks, 32, kSharedBytes>>>(tiles, counters, times);
  finish(name);
  Times sum{};
  for (const Times& t : to_host(times, blocks)) {
    sum.total += t.total;
    sum.store += t.store;
    sum.signal += t.signal;
    sum.load += t.load;
    sum.errors += t.errors;
  }
  double scale = 1.0 / (double(blocks) * kRounds * ghz);
  std::printf("%-34s %4d pairs %9.0f %9.0f %9.0f %9.0f   %s\n", name, blocks / 2,
              sum.total * scale / 2, sum.store * scale, sum.signal * scale, sum.load * scale,
              sum.errors ? "DATA WRONG" : "data right");
  PROBE_CHECK(cudaFree(tiles));
  PROBE_CHECK(cudaFree(counters));
  PROBE_CHECK(cudaFree(times));
}

}  // namespace

int main() {
  Device device = open_device();
  double ghz = cycles_per_ns();
  std::printf(
      "# SM clock %.3f GHz; tile %d bytes; store: issue to complete; load: acquire seen to "
      "data in shared memory\n",
      ghz, kTileBytes);
  std::printf("\n%-34s %10s %9s %9s %9s %9s\n", "ns", "", "one way", "store", "signal", "load");
  for (int blocks : {2, device.sm_count / 2 * 2}) {
    measure<Payload::kNone, Scope::kGpu>("flag alone, gpu scope", blocks, ghz);
    measure<Payload::kNone, Scope::kSys>("flag alone, sys scope", blocks, ghz);
    measure<Payload::kBulk, Scope::kGpu>("bulk tile + flag, gpu scope", blocks, ghz);
    measure<Payload::kBulk, Scope::kSys>("bulk tile + flag, sys scope", blocks, ghz);
    measure<Payload::kPlain, Scope::kGpu>("plain tile + flag, gpu scope", blocks, ghz);
    measure<Payload::kPlain, Scope::kSys>("plain tile + flag, sys scope", blocks, ghz);
  }
  return 0;
}
