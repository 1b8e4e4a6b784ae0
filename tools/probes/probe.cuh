// What every probe needs: checked CUDA calls, PTX wrappers, bf16 conversion, a counting generator.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#define PROBE_CHECK(call)                                                                          \
  do {                                                                                             \
    cudaError_t probe_status = (call);                                                             \
    if (probe_status != cudaSuccess) {                                                             \
      std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(probe_status)); \
      std::exit(1);                                                                                \
    }                                                                                              \
  } while (0)

namespace probe {

#include "wgmma.inc"

// ---------------------------------------------------------------- numbers

__host__ __device__ inline uint64_t mix(uint64_t x) {  // splitmix64 finaliser
  x += 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

__host__ __device__ inline float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

__host__ __device__ inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  return bits;
}

__host__ __device__ inline float float_of_bf16(uint16_t bits) {
  return float_of_bits(uint32_t(bits) << 16);
}

__host__ __device__ inline uint16_t bf16_of_float(float value) {  // nearest even; finite input
  uint32_t bits = bits_of_float(value);
  return uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

// Sum of four uniforms, unit variance: near normal, the same on both sides.
__host__ __device__ inline float near_normal(uint64_t key) {
  uint64_t r = mix(key);
  float sum = 0.0f;
  for (int i = 0; i < 4; ++i)
    sum += float((r >> (16 * i)) & 0xFFFF);
  return (sum * (1.0f / 65536.0f) - 2.0f) * 1.7320508f;
}

// ---------------------------------------------------------------- barriers and copies

__device__ __forceinline__ uint32_t smem_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Barriers and buffers go by their shared-memory address: held in a register once, it is not
// computed again at every use.
__device__ __forceinline__ void mbarrier_init(uint32_t barrier, uint32_t count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void mbarrier_arrive(uint32_t barrier, uint32_t count = 1) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(count)
               : "memory");
}

__device__ __forceinline__ bool mbarrier_try_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{.reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
      "selp.u32 %0, 1, 0, p;}"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

// A probe that hangs wastes the machine: after about four seconds it traps.
__device__ __forceinline__ void mbarrier_wait(uint32_t barrier, uint32_t parity) {
  if (mbarrier_try_wait(barrier, parity))
    return;
  long long start = clock64();
  while (!mbarrier_try_wait(barrier, parity)) {
    if (clock64() - start > 8'000'000'000ll)
      __trap();
  }
}

__device__ __forceinline__ uint32_t load_shared(uint32_t address) {
  uint32_t value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
}

__device__ __forceinline__ void store_shared(uint32_t address, uint32_t value) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

// Keeps an address in a register: without it the compiler may rebuild it at every use.
__device__ __forceinline__ uint32_t held_address(const void* pointer) {
  uint32_t address = smem_address(pointer);
  asm volatile("" : "+r"(address));
  return address;
}

__device__ __forceinline__ uint64_t evict_first_policy() {
  uint64_t policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

__device__ __forceinline__ void bulk_load_async(uint32_t smem, const void* gmem, uint32_t bytes,
                                                uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(smem),
      "l"(gmem), "r"(bytes), "r"(barrier)
      : "memory");
}

__device__ __forceinline__ void bulk_load_async(uint32_t smem, const void* gmem, uint32_t bytes,
                                                uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1], %2, [%3], %4;" ::"r"(smem),
      "l"(gmem), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

__device__ __forceinline__ void bulk_store_async(void* gmem, uint32_t smem, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(gmem), "r"(smem),
               "r"(bytes)
               : "memory");
}

__device__ __forceinline__ void bulk_commit() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

__device__ __forceinline__ void bulk_wait_complete() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
}

__device__ __forceinline__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

__device__ __forceinline__ void fence_proxy_async() {
  asm volatile("fence.proxy.async;" ::: "memory");
}

__device__ __forceinline__ void fence_proxy_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---------------------------------------------------------------- wgmma

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Ties a register to this place in the program, so that the compiler does not move its use.
__device__ __forceinline__ void pin_register(float& value) {
  asm volatile("" : "+f"(value)::"memory");
}

// 128-byte swizzle; strides in bytes. K-major operands ignore the leading stride.
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t address, uint32_t leading,
                                                    uint32_t stride) {
  return uint64_t((address & 0x3FFFF) >> 4) | (uint64_t(leading >> 4) << 16) |
         (uint64_t(stride >> 4) << 32) | (uint64_t(1) << 62);
}

// Byte offset inside a tile of 128-byte rows, 1024-byte aligned.
__host__ __device__ inline uint32_t swizzled(uint32_t row, uint32_t column) {
  return row * 128 + (((column / 8) ^ (row & 7)) * 16) + (column % 8) * 2;
}

// ---------------------------------------------------------------- host side

static __global__ void clock_rate_kernel(long long* result) {
  uint64_t t0, t1;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t0));
  long long c0 = clock64();
  do {
    asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t1));
  } while (t1 - t0 < 20'000'000);
  result[0] = clock64() - c0;
  result[1] = (long long)(t1 - t0);
}

struct Device {
  int sm_count;
};

inline Device open_device() {
  cudaDeviceProp properties;
  PROBE_CHECK(cudaGetDeviceProperties(&properties, 0));
  int driver = 0;
  PROBE_CHECK(cudaDriverGetVersion(&driver));
  std::printf("# %s, %d SMs, CUDA driver %d.%d\n", properties.name, properties.multiProcessorCount,
              driver / 1000, driver % 1000 / 10);
  return {properties.multiProcessorCount};
}

template <class T>
T* device_array(size_t count) {
  void* pointer = nullptr;
  PROBE_CHECK(cudaMalloc(&pointer, count * sizeof(T)));
  PROBE_CHECK(cudaMemset(pointer, 0xFF, count * sizeof(T)));  // poison
  return static_cast<T*>(pointer);
}

template <class T>
T* to_device(const std::vector<T>& host) {
  T* pointer = device_array<T>(host.size());
  PROBE_CHECK(cudaMemcpy(pointer, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
  return pointer;
}

template <class T>
std::vector<T> to_host(const T* pointer, size_t count) {
  std::vector<T> host(count);
  PROBE_CHECK(cudaMemcpy(host.data(), pointer, count * sizeof(T), cudaMemcpyDeviceToHost));
  return host;
}

inline void finish(const char* what) {
  cudaError_t status = cudaGetLastError();
  if (status == cudaSuccess)
    status = cudaDeviceSynchronize();
  if (status != cudaSuccess) {
    std::printf("%s: %s\n", what, cudaGetErrorString(status));
    std::exit(1);
  }
}

// Clock of an otherwise idle SM.
inline double cycles_per_ns() {
  long long* pointer = device_array<long long>(2);
  clock_rate_kernel<<<1, 1>>>(pointer);
  finish("clock_rate");
  auto values = to_host(pointer, 2);
  PROBE_CHECK(cudaFree(pointer));
  return double(values[0]) / double(values[1]);
}

// Median time of `repeats` calls after one warm-up, in seconds.
template <class Launch>
double median_seconds(int repeats, Launch&& launch) {
  cudaEvent_t begin, end;
  PROBE_CHECK(cudaEventCreate(&begin));
  PROBE_CHECK(cudaEventCreate(&end));
  launch();
  finish("warm-up");
  std::vector<float> times;
  for (int i = 0; i < repeats; ++i) {
    PROBE_CHECK(cudaEventRecord(begin));
    launch();
    PROBE_CHECK(cudaEventRecord(end));
    finish("timed launch");
    float milliseconds = 0.0f;
    PROBE_CHECK(cudaEventElapsedTime(&milliseconds, begin, end));
    times.push_back(milliseconds);
  }
  std::sort(times.begin(), times.end());
  PROBE_CHECK(cudaEventDestroy(begin));
  PROBE_CHECK(cudaEventDestroy(end));
  return times[times.size() / 2] * 1e-3;
}

}  // namespace probe
