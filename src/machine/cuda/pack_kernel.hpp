// The kernel that turns a checkpoint's rows into tiles, as its caller sees it.
#pragma once

#include <cuda_runtime.h>

#include "machine/pack_chunk.hpp"

namespace terrazzo::cuda {

/// Moves all rows of the block on `stream`; every pointer in it is the device's. Asynchronous.
void launch_pack(const RowBlock& block, cudaStream_t stream);

/// Fills a table likewise.
void launch_lay(const TableRows& table, cudaStream_t stream);

}  // namespace terrazzo::cuda
