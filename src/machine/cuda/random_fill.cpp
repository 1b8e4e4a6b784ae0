#include "machine/cuda/random_fill.hpp"

#include <algorithm>
#include <random>
#include <vector>

#include "terrazzo/core/bf16.hpp"

namespace terrazzo::cuda {
namespace {

constexpr uint64_t kBlockBytes = 64 << 20;
constexpr uint32_t kValuesPerDraw = 4;  // 16 bits each

}  // namespace

DeviceMemory random_block(float scale, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<bf16> values(kBlockBytes / sizeof(bf16));
  for (size_t i = 0; i < values.size(); i += kValuesPerDraw) {
    uint64_t draw = random();
    for (uint32_t j = 0; j < kValuesPerDraw; ++j, draw >>= 16) {
      const auto number = static_cast<float>(static_cast<int16_t>(draw & 0xFFFFu));
      values[i + j] = to_bf16(number * 0x1p-15F * scale);
    }
  }
  DeviceMemory block(kBlockBytes);
  check_cuda(cudaMemcpy(block.data(), values.data(), kBlockBytes, cudaMemcpyHostToDevice));
  return block;
}

void copy_over(std::byte* target, uint64_t bytes, const DeviceMemory& block) {
  for (uint64_t at = 0; at < bytes; at += block.bytes()) {
    check_cuda(cudaMemcpy(target + at, block.data(), std::min<uint64_t>(block.bytes(), bytes - at),
                          cudaMemcpyDeviceToDevice));
  }
  check_cuda(cudaDeviceSynchronize());  // copies within a device return before they end
}

}  // namespace terrazzo::cuda
