// Random numbers for measurements: made once on the host, copied all over on the device.
#pragma once

#include <cstdint>

#include "machine/cuda/device_memory.hpp"

namespace terrazzo::cuda {

/// 64 MB of bf16 values, even in [-scale, scale): more than an L2 holds.
DeviceMemory random_block(float scale, uint64_t seed);

/// Copies of `block` over `bytes` of the device's memory, one after the other. Returns when all are
/// there.
void copy_over(std::byte* target, uint64_t bytes, const DeviceMemory& block);

}  // namespace terrazzo::cuda
