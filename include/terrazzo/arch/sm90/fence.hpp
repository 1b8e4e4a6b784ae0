// Fences between the ordinary and the asynchronous proxy, and barriers among warps.
#pragma once

#include <cstdint>

namespace terrazzo::sm90 {

/// After an acquire, before bulk loads of what it guards. PTX: fence.proxy.async
__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async;" ::: "memory");
}

/// After ordinary writes of shared memory, before bulk stores or wgmma read them. PTX:
/// fence.proxy.async
__device__ __forceinline__ void fence_proxy_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// Among `threads` threads that name `barrier` (1 to 15). PTX: barrier.sync
__device__ __forceinline__ void named_barrier_sync(uint32_t barrier, uint32_t threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

}  // namespace terrazzo::sm90
