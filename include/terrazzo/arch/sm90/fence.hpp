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

/// The same; true in all of them if `value` is in one. PTX: barrier.red.or
__device__ __forceinline__ bool named_barrier_any(uint32_t barrier, uint32_t threads, bool value) {
  uint32_t any;
  asm volatile(
      "{.reg .pred p, q; setp.ne.u32 p, %3, 0; barrier.cta.red.or.pred q, %1, %2, p; "
      "selp.u32 %0, 1, 0, q;}"
      : "=r"(any)
      : "r"(barrier), "r"(threads), "r"(static_cast<uint32_t>(value))
      : "memory");
  return any != 0;
}

}  // namespace terrazzo::sm90
