#include "fingerprint.hpp"

#include <algorithm>

#include "machine/cuda/check_cuda.hpp"

namespace terrazzo::testing {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kBlocks = 64;  // of a region; several regions fill a GPU

struct Regions {
  Region each[kMostRegions];
};

__global__ void __launch_bounds__(kThreads)
    sum_words(const __grid_constant__ Regions regions, unsigned long long* sums) {
  const Region& region = regions.each[blockIdx.y];
  uint64_t sum = 0;
  for (uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x; i < region.words;
       i += uint64_t{kBlocks} * kThreads) {
    sum += counts(region, i) ? fingerprint_word(region.data[i], i) : 0;
  }
  // Sums of integers do not depend on the order.
  for (uint32_t distance = 16; distance > 0; distance /= 2) {
    sum += __shfl_xor_sync(~0u, sum, distance);
  }
  if (threadIdx.x % 32 == 0) {
    atomicAdd(&sums[blockIdx.y], static_cast<unsigned long long>(sum));
  }
}

}  // namespace

void launch_fingerprints(std::span<const Region> regions, uint64_t* sums, cudaStream_t stream) {
  static_assert(sizeof(uint64_t) == sizeof(unsigned long long));
  check(regions.size() <= kMostRegions, "fingerprint", "expected at most ", kMostRegions,
        " regions, got ", regions.size());
  Regions params{};
  std::copy(regions.begin(), regions.end(), params.each);
  cuda::check_cuda(cudaMemsetAsync(sums, 0, regions.size() * sizeof(uint64_t), stream));
  const dim3 grid(kBlocks, static_cast<uint32_t>(regions.size()));
  sum_words<<<grid, kThreads, 0, stream>>>(params, reinterpret_cast<unsigned long long*>(sums));
  cuda::check_cuda(cudaGetLastError());
}

}  // namespace terrazzo::testing
