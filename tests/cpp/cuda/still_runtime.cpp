// A CUDA runtime whose devices do nothing, in no time: what is left of a step's submission is the
// host's own work. Device memory is addresses that nobody touches.
#include <cuda_runtime.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

#include "machine/cuda/megakernel.hpp"
#include "machine/cuda/pack_kernel.hpp"

namespace {

constexpr size_t kAlignment = 4096;
std::atomic<uintptr_t> next_address{uintptr_t{1} << 44};

template <class T>
cudaError_t give(T* target, T value) {
  *target = value;
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return give(pointer, reinterpret_cast<void*>(next_address.fetch_add(rounded)));
}
cudaError_t cudaFree(void*) { return cudaSuccess; }
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  const size_t rounded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  *pointer = std::aligned_alloc(kAlignment, rounded);
  std::memset(*pointer, 0, rounded);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void*, const void*, size_t, cudaMemcpyKind) { return cudaSuccess; }
cudaError_t cudaMemset(void*, int, size_t) { return cudaSuccess; }
cudaError_t cudaMemcpyAsync(void*, const void*, size_t, cudaMemcpyKind, cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void*, size_t, const void*, size_t, size_t, size_t, cudaMemcpyKind,
                              cudaStream_t) {
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void*, int, size_t, cudaStream_t) { return cudaSuccess; }

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return give<cudaStream_t>(stream, nullptr);
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  return give<cudaEvent_t>(event, nullptr);
}
cudaError_t cudaEventDestroy(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) { return give(ms, 0.0F); }

cudaError_t cudaGetDevice(int* device) { return give(device, 0); }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return give(count, 1); }
cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return give(can, 1); }
cudaError_t cudaDeviceEnablePeerAccess(int, unsigned) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const bool is_major = attribute == cudaDevAttrComputeCapabilityMajor;
  return give(value, attribute == cudaDevAttrMultiProcessorCount ? 132 : is_major ? 9 : 0);
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  properties->major = 9;
  properties->multiProcessorCount = 132;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = *total_bytes = size_t{80} << 30;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return give(version, 13000); }
cudaError_t cudaRuntimeGetVersion(int* version) { return give(version, 13000); }
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorStill"; }
const char* cudaGetErrorString(cudaError_t) { return "an error of the still runtime"; }

}  // extern "C"

namespace terrazzo::cuda {

template <uint32_t kHeadPanels, uint32_t kMostRanks>
void Megakernel<kHeadPanels, kMostRanks>::prepare() {}

template <uint32_t kHeadPanels, uint32_t kMostRanks>
void Megakernel<kHeadPanels, kMostRanks>::launch(const LaunchParams<kMostRanks>&, uint32_t,
                                                 uint32_t, cudaStream_t) {}

template struct Megakernel<1, 1>;
template struct Megakernel<2, 1>;
template struct Megakernel<1, kMaxGpus>;
template struct Megakernel<2, kMaxGpus>;

void launch_pack(const RowBlock&, cudaStream_t) {}
void launch_lay(const TableRows&, cudaStream_t) {}

}  // namespace terrazzo::cuda
