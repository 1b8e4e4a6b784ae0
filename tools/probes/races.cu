// Does racecheck follow mbarriers? One warp fills the slots of a ring, another one reads them, as
// the roles of the megakernel do. All modes are free of races, and check the sum of what was read.
//   compute-sanitizer --tool racecheck ./races MODE
//     bulk     slots filled by bulk copies, which complete on the full barrier
//     plain    slots filled by ordinary stores and an arrival on the full barrier
//     block    ordinary stores, ordered by __syncthreads
#include "probe.cuh"

namespace {

using namespace probe;

constexpr uint32_t kWarp = 32;
constexpr uint32_t kSlots = 2;
constexpr uint32_t kWords = 512;  // of a slot
constexpr uint32_t kRounds = 64;  // slots filled
constexpr uint32_t kBytes = kWords * 4;

enum class Fill { kBulk, kPlain, kBlock };

__device__ __forceinline__ uint32_t shared_of(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void wait(uint64_t* barrier, uint32_t parity) {
  asm volatile(
      "{.reg .pred p; again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1; @!p bra again;}" ::
          "r"(shared_of(barrier)),
      "r"(parity)
      : "memory");
}

__device__ __forceinline__ void arrive(uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_of(barrier)) : "memory");
}

__device__ __forceinline__ void fill_by_copy(uint32_t* slot, const uint32_t* source,
                                             uint64_t* full) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_of(full)),
               "r"(kBytes)
               : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_of(slot)),
      "l"(source), "r"(kBytes), "r"(shared_of(full))
      : "memory");
}

__global__ void __launch_bounds__(2 * kWarp)
    ring(const uint32_t* source, unsigned long long* sum, Fill fill) {
  __shared__ __align__(128) uint32_t slots[kSlots][kWords];
  __shared__ uint64_t full[kSlots];
  __shared__ uint64_t empty[kSlots];
  if (threadIdx.x == 0) {
    for (uint32_t i = 0; i < kSlots; ++i) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_of(&full[i])) : "memory");
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_of(&empty[i])) : "memory");
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  const uint32_t lane = threadIdx.x % kWarp;
  const bool produces = threadIdx.x < kWarp;
  unsigned long long own = 0;
  for (uint32_t round = 0; round < kRounds; ++round) {
    const uint32_t index = round % kSlots;
    const uint32_t parity = round / kSlots % 2;
    uint32_t* const slot = slots[index];
    const uint32_t* const from = source + round * kWords;
    if (produces) {
      if (fill != Fill::kBlock) {
        wait(&empty[index], parity ^ 1);
      }
      if (fill == Fill::kBulk && lane == 0) {
        fill_by_copy(slot, from, &full[index]);
      } else if (fill != Fill::kBulk) {
        for (uint32_t i = lane; i < kWords; i += kWarp) {
          slot[i] = from[i];
        }
        __syncwarp();
        if (fill == Fill::kPlain && lane == 0) {
          arrive(&full[index]);
        }
      }
    }
    if (fill == Fill::kBlock) {
      __syncthreads();
    }
    if (!produces) {
      if (fill != Fill::kBlock) {
        wait(&full[index], parity);
      }
      for (uint32_t i = lane; i < kWords; i += kWarp) {
        own += slot[i];
      }
      __syncwarp();
      if (fill != Fill::kBlock && lane == 0) {
        arrive(&empty[index]);
      }
    }
    if (fill == Fill::kBlock) {
      __syncthreads();
    }
  }
  atomicAdd(sum, own);
}

int run(const std::string& mode) {
  const Fill fill = mode == "bulk"    ? Fill::kBulk
                    : mode == "plain" ? Fill::kPlain
                                      : Fill::kBlock;
  std::vector<uint32_t> values(kRounds * kWords);
  unsigned long long expected = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<uint32_t>(mix(i) >> 40);
    expected += values[i];
  }
  uint32_t* source = nullptr;
  unsigned long long* sum = nullptr;
  PROBE_CHECK(cudaMalloc(&source, values.size() * 4));
  PROBE_CHECK(cudaMalloc(&sum, sizeof(*sum)));
  PROBE_CHECK(cudaMemcpy(source, values.data(), values.size() * 4, cudaMemcpyHostToDevice));
  PROBE_CHECK(cudaMemset(sum, 0, sizeof(*sum)));
  ring<<<1, 2 * kWarp>>>(source, sum, fill);
  PROBE_CHECK(cudaDeviceSynchronize());
  unsigned long long seen = 0;
  PROBE_CHECK(cudaMemcpy(&seen, sum, sizeof(seen), cudaMemcpyDeviceToHost));
  std::printf("%s: sum %s\n", mode.c_str(), seen == expected ? "right" : "WRONG");
  return seen == expected ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc == 2 ? argv[1] : "";
  if (mode != "bulk" && mode != "plain" && mode != "block") {
    std::printf("races bulk|plain|block\n");
    return 2;
  }
  return run(mode);
}
