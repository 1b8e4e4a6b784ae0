// One-dimensional bulk copies between global and shared memory.
#pragma once

#include <cstdint>

namespace terrazzo::sm90 {

/// An L2 policy for data that is read once. PTX: createpolicy.fractional
__device__ __forceinline__ uint64_t policy_evict_first() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

/// Completes on the barrier by its bytes. All 16-byte aligned. PTX: cp.async.bulk
__device__ __forceinline__ void bulk_load_async(uint32_t target, const void* source, uint32_t bytes,
                                                uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(target),
      "l"(source), "r"(bytes), "r"(barrier)
      : "memory");
}

/// The same with an L2 policy. PTX: cp.async.bulk
__device__ __forceinline__ void bulk_load_hint_async(uint32_t target, const void* source,
                                                     uint32_t bytes, uint32_t barrier,
                                                     uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(target),
      "l"(source), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

/// Joins the lane's open bulk group. PTX: cp.async.bulk
__device__ __forceinline__ void bulk_store_async(void* target, uint32_t source, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(target),
               "r"(source), "r"(bytes)
               : "memory");
}

/// PTX: cp.async.bulk.commit_group
__device__ __forceinline__ void bulk_commit_group() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/// Until this lane's stores have read their sources, those of the last `kPending` groups excepted.
/// PTX: cp.async.bulk.wait_group.read
template <uint32_t kPending = 0>
__device__ __forceinline__ void bulk_wait_group_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

/// Until this lane's stores are complete. PTX: cp.async.bulk.wait_group
__device__ __forceinline__ void bulk_wait_group() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

}  // namespace terrazzo::sm90
