// What does it cost to claim, fetch and hand over an instruction, and how long is one atomic?
#include "probe.cuh"

namespace {

using namespace probe;

constexpr int kInstructionWords = 32;  // 128 bytes
constexpr int kInstructionBytes = kInstructionWords * 4;
constexpr int kProgram = 4096;       // instructions stored: at home in L2
constexpr int kPositions = 1 << 21;  // queue positions; position p runs instruction p % kProgram
constexpr uint32_t kStop = 0xFFFFFFFFu;

enum class Fetch { kWarpLoads, kBulkCopy };

struct Params {
  const uint32_t* program;  // [kProgram][kInstructionWords]
  uint32_t count;           // queue positions
  uint32_t* head;
  unsigned long long* sum;  // of all words executed
  int work_cycles;          // the consumer is busy so long per instruction
};

// atomicAdd() is compiled to a vote and a shuffle that wait for the result on the spot; this one is
// waited for where the result is used.
__device__ __forceinline__ uint32_t claim_async(uint32_t* head) {
  uint32_t value;
  asm volatile("atom.relaxed.gpu.global.add.u32 %0, [%1], 1;" : "=r"(value) : "l"(head) : "memory");
  return value;
}

template <int kRing>
struct Shared {
  alignas(128) uint32_t ring[kRing][kInstructionWords];
  uint64_t full[kRing];
  uint64_t empty[kRing];
  uint32_t positions[kRing];
};

// kRing instructions may be claimed and unfinished on an SM. kEarly: the next claim is under way
// while this instruction is fetched, so one more is claimed.
template <int kRing, Fetch kFetch, bool kEarly>
__global__ void __launch_bounds__(64, 1) claim_loop(const __grid_constant__ Params params) {
  __shared__ Shared<kRing> shared;
  uint32_t ring = held_address(shared.ring);
  uint32_t full = held_address(shared.full);
  uint32_t empty = held_address(shared.empty);
  uint32_t positions = held_address(shared.positions);
  if (threadIdx.x == 0) {
    for (int i = 0; i < kRing; ++i) {
      mbarrier_init(full + i * 8, 1);
      mbarrier_init(empty + i * 8, 1);
    }
    fence_barrier_init();
  }
  __syncthreads();
  int lane = threadIdx.x % 32;
  int slot = 0;
  uint32_t phase = 0;
  auto advance = [&] {
    if (++slot == kRing) {
      slot = 0;
      phase ^= 1;
    }
  };
  if (threadIdx.x < 32) {  // controller
    uint32_t next = 0;
    if (kEarly && lane == 0)
      next = claim_async(params.head);
    while (true) {
      mbarrier_wait(empty + slot * 8, phase ^ 1);
      if (!kEarly && lane == 0)
        next = claim_async(params.head);
      uint32_t position = __shfl_sync(~0u, next, 0);
      if (position >= params.count) {
        if (lane == 0) {
          store_shared(positions + slot * 4, kStop);
          mbarrier_arrive(full + slot * 8);
        }
        break;
      }
      if (kEarly && lane == 0)
        next = claim_async(params.head);
      const uint32_t* source = params.program + size_t(position % kProgram) * kInstructionWords;
      uint32_t target = ring + slot * kInstructionBytes;
      if (lane == 0)
        store_shared(positions + slot * 4, position);
      if constexpr (kFetch == Fetch::kWarpLoads) {
        store_shared(target + lane * 4, __ldcg(source + lane));
        __syncwarp();
        if (lane == 0)
          mbarrier_arrive(full + slot * 8);
      } else if (lane == 0) {
        mbarrier_expect(full + slot * 8, kInstructionBytes);
        bulk_load_async(target, source, kInstructionBytes, full + slot * 8);
      }
      __syncwarp();
      advance();
    }
  } else {
    unsigned long long sum = 0;
    while (true) {
      mbarrier_wait(full + slot * 8, phase);
      if (load_shared(positions + slot * 4) == kStop)
        break;
      long long begin = clock64();
      sum += load_shared(ring + slot * kInstructionBytes + lane * 4);
      while (params.work_cycles && clock64() - begin < params.work_cycles) {
      }
      __syncwarp();
      if (lane == 0)
        mbarrier_arrive(empty + slot * 8);
      advance();
    }
    atomicAdd(params.sum, sum);
  }
}

enum class Chain { kOwnLine, kSharedCounter, kLoad };

// Dependent chain of one operation by one lane of each block.
template <Chain kChain>
__global__ void chain_latency(uint32_t* memory, int length, uint32_t* cycles, uint32_t* sink) {
  uint32_t value = 0;
  uint32_t* own = kChain == Chain::kSharedCounter ? memory : memory + 64 * (1 + blockIdx.x);
  long long begin = clock64();
  for (int i = 0; i < length; ++i) {
    if (kChain == Chain::kLoad) {
      asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];"
                   : "=r"(value)
                   : "l"(own + (value & 1))
                   : "memory");
    } else {
      value = claim_async(own + (value >> 31));
    }
  }
  sink[blockIdx.x] = value;
  long long end = clock64();
  cycles[blockIdx.x] = uint32_t((end - begin) / length);
}

template <int kRing, Fetch kFetch, bool kEarly>
void measure(const char* name, Params params, unsigned long long pass_sum, int sms, double ghz) {
  std::printf("%-36s", name);
  for (int work_ns : {0, 1000, 4000}) {
    params.work_cycles = int(work_ns * ghz);
    params.count = work_ns ? kPositions / 16 : kPositions;
    auto launch = [&] {
      PROBE_CHECK(cudaMemsetAsync(params.head, 0, 4));
      PROBE_CHECK(cudaMemsetAsync(params.sum, 0, 8));
      claim_loop<kRing, kFetch, kEarly><<<sms, 64>>>(params);
    };
    double seconds = median_seconds(3, launch);
    double each = seconds * 1e9 * sms / params.count;
    bool right = to_host(params.sum, 1)[0] == pass_sum * (params.count / kProgram);
    std::printf("  %8.0f%s", each - work_ns, right ? "" : " SUM WRONG");
  }
  std::printf("\n");
}

}  // namespace

int main() {
  Device device = open_device();
  int sms = device.sm_count;
  double ghz = cycles_per_ns();
  std::printf("# SM clock %.3f GHz\n", ghz);
  std::vector<uint32_t> program(size_t(kProgram) * kInstructionWords);
  unsigned long long pass_sum = 0;
  for (size_t i = 0; i < program.size(); ++i) {
    program[i] = uint32_t(mix(i));
    pass_sum += program[i];
  }
  Params params{to_device(program), kPositions, device_array<uint32_t>(64),
                device_array<unsigned long long>(1), 0};

  uint32_t* cycles = device_array<uint32_t>(sms);
  uint32_t* sink = device_array<uint32_t>(sms);
  uint32_t* memory = device_array<uint32_t>(64 * (sms + 2));
  std::printf(
      "\n## latency of one operation, one lane, dependent chain, ns: fastest / slowest SM\n");
  auto chain = [&](const char* name, auto* kernel, int blocks) {
    PROBE_CHECK(cudaMemset(memory, 0, 64 * (sms + 2) * 4));
    for (int i = 0; i < 2; ++i) {
      kernel<<<blocks, 1>>>(memory, 4000, cycles, sink);
      finish(name);
    }
    auto all = to_host(cycles, blocks);
    std::printf("%-36s %4d SMs  %6.0f / %.0f\n", name, blocks,
                *std::min_element(all.begin(), all.end()) / ghz,
                *std::max_element(all.begin(), all.end()) / ghz);
  };
  for (int blocks : {1, sms}) {
    chain("load, relaxed, own line", chain_latency<Chain::kLoad>, blocks);
    chain("atomic add, own line", chain_latency<Chain::kOwnLine>, blocks);
    chain("atomic add, one counter for all", chain_latency<Chain::kSharedCounter>, blocks);
  }

  std::printf("\n## ns an instruction and SM beyond its work of 0, 1000, 4000 ns; %d SMs\n", sms);
  constexpr auto W = Fetch::kWarpLoads;
  constexpr auto B = Fetch::kBulkCopy;
  measure<1, W, false>("depth 1, warp loads", params, pass_sum, sms, ghz);
  measure<1, B, false>("depth 1, bulk copy", params, pass_sum, sms, ghz);
  measure<2, W, false>("depth 2, warp loads", params, pass_sum, sms, ghz);
  measure<2, B, false>("depth 2, bulk copy", params, pass_sum, sms, ghz);
  measure<2, W, true>("depth 2 + early claim, warp loads", params, pass_sum, sms, ghz);
  measure<2, B, true>("depth 2 + early claim, bulk copy", params, pass_sum, sms, ghz);
  measure<4, W, false>("depth 4, warp loads", params, pass_sum, sms, ghz);
  measure<4, B, false>("depth 4, bulk copy", params, pass_sum, sms, ghz);
  measure<4, W, true>("depth 4 + early claim, warp loads", params, pass_sum, sms, ghz);
  measure<4, B, true>("depth 4 + early claim, bulk copy", params, pass_sum, sms, ghz);
  return 0;
}
