// How fast do bulk copies feed SMs from memory: by number of SMs, bytes in flight, copy size, hint?
#include "probe.cuh"

namespace {

using namespace probe;

constexpr size_t kPoolBytes = size_t(2) << 30;  // far more than L2
constexpr size_t kPoolWords = kPoolBytes / 8;
constexpr int kMaxSlots = 24;
constexpr int kRingBytes = 192 * 1024;

struct Params {
  const char* pool;
  size_t bytes_per_sm;
  int slots, slot_bytes;
  bool evict_first;
  unsigned long long* sum;  // of the first word of every copy
};

__global__ void __launch_bounds__(64, 1) stream(const __grid_constant__ Params params) {
  extern __shared__ __align__(1024) char ring[];
  __shared__ uint64_t barriers[2][kMaxSlots];
  uint32_t full = held_address(barriers[0]);
  uint32_t empty = held_address(barriers[1]);
  uint32_t slots = held_address(ring);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kMaxSlots; ++i) {
      mbarrier_init(full + i * 8, 1);
      mbarrier_init(empty + i * 8, 1);
    }
    fence_barrier_init();
  }
  __syncthreads();
  const char* source = params.pool + blockIdx.x * params.bytes_per_sm;
  int copies = int(params.bytes_per_sm / params.slot_bytes);
  int slot = 0;
  uint32_t phase = 0;
  auto advance = [&] {
    if (++slot == params.slots) {
      slot = 0;
      phase ^= 1;
    }
  };
  if (threadIdx.x == 0) {
    uint64_t policy = evict_first_policy();
    for (int i = 0; i < copies; ++i) {
      mbarrier_wait(empty + slot * 8, phase ^ 1);
      mbarrier_expect(full + slot * 8, params.slot_bytes);
      uint32_t target = slots + slot * params.slot_bytes;
      const char* from = source + size_t(i) * params.slot_bytes;
      if (params.evict_first) {
        bulk_load_async(target, from, params.slot_bytes, full + slot * 8, policy);
      } else {
        bulk_load_async(target, from, params.slot_bytes, full + slot * 8);
      }
      advance();
    }
  } else if (threadIdx.x == 32) {
    unsigned long long sum = 0;
    for (int i = 0; i < copies; ++i) {
      mbarrier_wait(full + slot * 8, phase);
      sum += load_shared(slots + slot * params.slot_bytes);
      mbarrier_arrive(empty + slot * 8);
      advance();
    }
    atomicAdd(params.sum, sum);
  }
  __syncthreads();
}

__global__ void fill(uint64_t* pool) {
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < kPoolWords;
       i += size_t(gridDim.x) * blockDim.x) {
    pool[i] = mix(i);
  }
}

double gigabytes_per_second(Params params, int sms) {
  params.bytes_per_sm = std::min(kPoolBytes / sms, size_t(256) << 20) / kRingBytes * kRingBytes;
  unsigned long long expected = 0;
  for (int b = 0; b < sms; ++b) {
    for (size_t at = 0; at < params.bytes_per_sm; at += params.slot_bytes) {
      expected += uint32_t(mix((b * params.bytes_per_sm + at) / 8));
    }
  }
  double seconds = median_seconds(3, [&] {
    PROBE_CHECK(cudaMemsetAsync(params.sum, 0, 8));
    stream<<<sms, 64, kRingBytes>>>(params);
  });
  if (to_host(params.sum, 1)[0] != expected) {
    std::printf("[feed] sum of the data is wrong\n");
    std::exit(1);
  }
  return double(params.bytes_per_sm) * sms / seconds * 1e-9;
}

}  // namespace

int main() {
  Device device = open_device();
  PROBE_CHECK(
      cudaFuncSetAttribute(stream, cudaFuncAttributeMaxDynamicSharedMemorySize, kRingBytes));
  char* pool = device_array<char>(kPoolBytes);
  fill<<<device.sm_count * 8, 256>>>(reinterpret_cast<uint64_t*>(pool));
  finish("fill");
  Params base{pool, 0, 12, 16384, true, device_array<unsigned long long>(1)};
  std::vector<int> counts = {1, 4, 8, 16, 24, 28, 32, 36, 40, 44, 53, 64, 96, device.sm_count};
  std::printf("\n## GB/s over the chip (per SM), 2 GB pool, data checked\n%-28s", "SMs");
  for (int sms : counts)
    std::printf("%14d", sms);
  std::printf("\n");
  auto row = [&](int slots, int kilobytes, bool evict_first) {
    Params params = base;
    params.slots = slots;
    params.slot_bytes = kilobytes * 1024;
    params.evict_first = evict_first;
    std::printf("%2d x %2d KB%-19s", slots, kilobytes, evict_first ? ", evict first" : "");
    for (int sms : counts) {
      double rate = gigabytes_per_second(params, sms);
      std::printf("  %6.0f (%3.0f)", rate, rate / sms);
    }
    std::printf("\n");
  };
  for (int slots : {12, 8, 6, 4, 3, 2})
    row(slots, 16, true);
  row(12, 16, false);
  row(24, 8, true);
  row(12, 8, true);
  row(6, 32, true);
  return 0;
}
