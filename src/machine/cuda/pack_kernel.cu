// Tiles weights on the device as they arrive: reading and writing them here is free beside the
// copy over the bus, and the host only has to move bytes.
#include <algorithm>

#include "machine/cuda/check_cuda.hpp"
#include "machine/cuda/pack_kernel.hpp"

namespace terrazzo::cuda {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint64_t kMostBlocks = 4096;  // enough to fill any device; threads stride over the rest

__global__ void __launch_bounds__(kThreads) pack(const __grid_constant__ RowBlock block) {
  const uint32_t chunks = block.chunks_per_row();
  const uint64_t total = uint64_t{block.rows} * chunks;
  const uint64_t stride = uint64_t{gridDim.x} * kThreads;
  for (uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x; i < total; i += stride) {
    pack_chunk(block, static_cast<uint32_t>(i / chunks), static_cast<uint32_t>(i % chunks));
  }
}

__global__ void __launch_bounds__(kThreads) lay(const __grid_constant__ TableRows table) {
  const uint32_t chunks = table.source.chunks_per_row();
  const uint64_t total = uint64_t{table.source.rows} * chunks;
  const uint64_t stride = uint64_t{gridDim.x} * kThreads;
  for (uint64_t i = uint64_t{blockIdx.x} * kThreads + threadIdx.x; i < total; i += stride) {
    lay_chunk(table, i / chunks, static_cast<uint32_t>(i % chunks));
  }
}

/// Blocks for all chunks of a source.
uint32_t blocks_for(const RowBlock& source) {
  const uint64_t total = uint64_t{source.rows} * source.chunks_per_row();
  return static_cast<uint32_t>(std::min(ceil_div<uint64_t>(total, kThreads), kMostBlocks));
}

}  // namespace

void launch_pack(const RowBlock& block, cudaStream_t stream) {
  if (const uint32_t blocks = blocks_for(block); blocks != 0) {
    pack<<<blocks, kThreads, 0, stream>>>(block);
    check_cuda(cudaGetLastError());
  }
}

void launch_lay(const TableRows& table, cudaStream_t stream) {
  if (const uint32_t blocks = blocks_for(table.source); blocks != 0) {
    lay<<<blocks, kThreads, 0, stream>>>(table);
    check_cuda(cudaGetLastError());
  }
}

}  // namespace terrazzo::cuda
