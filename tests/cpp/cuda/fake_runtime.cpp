#include "cuda/fake_runtime.hpp"

#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <vector>

// The runtime's types are opaque: here is what is behind them.
struct CUevent_st {
  int device = 0;
  uint64_t recorded = 0;  // calls of record
  uint64_t happened = 0;  // the newest of them that has happened
};

struct CUstream_st {
  struct Item {
    std::function<void()> work;
    CUevent_st* event = nullptr;  // to wait for
    uint64_t count = 0;           // until this record has happened
    std::function<bool()> ready;  // another thing to wait for

    bool can_happen() const {
      return (event == nullptr || event->happened >= count) && (!ready || ready());
    }
  };
  int device = 0;
  std::deque<Item> items;
};

namespace terrazzo::testing {
namespace {

constexpr int kPoison = 0xff;  // of new memory: NaN as any float, an absurd count

thread_local int current_device = 0;

class Runtime {
 public:
  static Runtime& get() {
    static Runtime runtime;
    return runtime;
  }

  std::recursive_mutex mutex;
  std::mt19937_64 random{1};
  std::map<void*, size_t> device;
  std::map<void*, size_t> pinned;
  std::set<cudaStream_t> streams;
  std::string name = "fake H100";
  int num_sms = 4;
  uint64_t memory_bytes = uint64_t{1} << 30;
  int num_devices = 1;
  std::set<std::pair<int, int>> unreachable;
  std::set<std::pair<int, int>> peers;  // enabled
  std::set<int> lost_devices;

  /// Something that may happen now, happens. False if nothing can.
  bool happen() {
    std::vector<cudaStream_t> ready;
    for (const cudaStream_t stream : streams) {
      if (!stream->items.empty() && stream->items.front().can_happen()) {
        ready.push_back(stream);
      }
    }
    if (ready.empty()) {
      return false;
    }
    const cudaStream_t chosen = ready[random() % ready.size()];
    const auto work = std::move(chosen->items.front().work);
    chosen->items.pop_front();
    if (work) {
      work();
    }
    return true;
  }

  template <class Condition>
  cudaError_t happen_until(const Condition& condition) {
    while (!condition()) {
      if (!happen()) {
        return cudaErrorLaunchTimeout;  // a stream waits for what nobody queued
      }
    }
    return cudaSuccess;
  }

  void happen_some() {
    for (uint64_t left = random() % 3; left > 0 && happen(); --left) {
    }
  }

  cudaError_t happen_all() {
    while (happen()) {
    }
    return cudaSuccess;
  }
};

std::lock_guard<std::recursive_mutex> locked() { return std::lock_guard(Runtime::get().mutex); }

cudaError_t allocate(std::map<void*, size_t>& from, void** pointer, size_t bytes) {
  const auto lock = locked();
  *pointer = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (*pointer == nullptr) {
    return cudaErrorMemoryAllocation;
  }
  std::memset(*pointer, kPoison, bytes);
  from[*pointer] = bytes;
  return cudaSuccess;
}

cudaError_t release(std::map<void*, size_t>& from, void* pointer) {
  const auto lock = locked();
  if (pointer == nullptr) {
    return cudaSuccess;
  }
  Runtime::get().happen_all();
  if (from.erase(pointer) == 0) {
    return cudaErrorInvalidValue;
  }
  std::free(pointer);
  return cudaSuccess;
}

uint64_t sum(const std::map<void*, size_t>& memory) {
  uint64_t bytes = 0;
  for (const auto& [pointer, size] : memory) {
    bytes += size;
  }
  return bytes;
}

}  // namespace

void seed_fake_runtime(uint64_t seed) {
  const auto lock = locked();
  Runtime::get().random.seed(seed);
}

void set_fake_model(const char* name, int num_sms, uint64_t memory_bytes) {
  const auto lock = locked();
  Runtime::get().name = name;
  Runtime::get().num_sms = num_sms;
  Runtime::get().memory_bytes = memory_bytes;
}

void set_fake_devices(int count, const std::set<std::pair<int, int>>& unreachable) {
  const auto lock = locked();
  Runtime::get().num_devices = count;
  Runtime::get().unreachable = unreachable;
  Runtime::get().peers.clear();
  current_device = 0;
}

bool is_peer_enabled(int device, int peer) {
  const auto lock = locked();
  return Runtime::get().peers.contains({device, peer});
}

void lose_fake_devices(const std::set<int>& devices) {
  const auto lock = locked();
  Runtime::get().lost_devices = devices;
}

int current_fake_device() { return current_device; }
int device_of(cudaStream_t stream) { return stream->device; }

void hold_until(cudaStream_t stream, std::function<bool()> ready) {
  const auto lock = locked();
  stream->items.push_back({{}, nullptr, 0, std::move(ready)});
}

void enqueue_on(cudaStream_t stream, std::function<void()> work) {
  const auto lock = locked();
  stream->items.push_back({std::move(work), nullptr, 0, {}});
  Runtime::get().happen_some();
}

uint64_t fake_device_bytes() { return sum(Runtime::get().device); }
uint64_t fake_pinned_bytes() { return sum(Runtime::get().pinned); }

}  // namespace terrazzo::testing

using terrazzo::testing::current_device;
using terrazzo::testing::enqueue_on;
using terrazzo::testing::locked;
using terrazzo::testing::Runtime;

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  return terrazzo::testing::allocate(Runtime::get().device, pointer, bytes);
}
cudaError_t cudaFree(void* pointer) {
  return terrazzo::testing::release(Runtime::get().device, pointer);
}
cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned) {
  return terrazzo::testing::allocate(Runtime::get().pinned, pointer, bytes);
}
cudaError_t cudaFreeHost(void* pointer) {
  return terrazzo::testing::release(Runtime::get().pinned, pointer);
}

// Copies and clears without a stream do not wait for streams that are not blocking.
cudaError_t cudaMemcpy(void* target, const void* source, size_t bytes, cudaMemcpyKind) {
  const auto lock = locked();
  std::memmove(target, source, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* target, int value, size_t bytes) {
  const auto lock = locked();
  std::memset(target, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  enqueue_on(stream, [=] { std::memmove(target, source, bytes); });
  return cudaSuccess;
}
cudaError_t cudaMemcpy2DAsync(void* target, size_t target_pitch, const void* source,
                              size_t source_pitch, size_t width, size_t height, cudaMemcpyKind,
                              cudaStream_t stream) {
  enqueue_on(stream, [=] {
    for (size_t row = 0; row < height; ++row) {
      std::memcpy(static_cast<char*>(target) + row * target_pitch,
                  static_cast<const char*>(source) + row * source_pitch, width);
    }
  });
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t stream) {
  enqueue_on(stream, [=] { std::memset(target, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  const auto lock = locked();
  *stream = new CUstream_st;
  (*stream)->device = current_device;
  Runtime::get().streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const auto lock = locked();
  Runtime::get().happen_all();
  Runtime::get().streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const auto lock = locked();
  return Runtime::get().happen_until([&] { return stream->items.empty(); });
}
cudaError_t cudaDeviceSynchronize() {
  const auto lock = locked();
  return Runtime::get().happen_all();
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const auto lock = locked();
  stream->items.push_back({{}, event, event->recorded, {}});
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  (*event)->device = current_device;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const auto lock = locked();
  Runtime::get().happen_all();
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const auto lock = locked();
  if (event->device != stream->device) {
    return cudaErrorInvalidResourceHandle;
  }
  const uint64_t count = ++event->recorded;
  enqueue_on(stream, [=] { event->happened = count; });
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const auto lock = locked();
  if (Runtime::get().lost_devices.contains(event->device)) {
    Runtime::get().happen_all();
    return cudaErrorIllegalAddress;
  }
  const uint64_t count = event->recorded;
  return Runtime::get().happen_until([&] { return event->happened >= count; });
}
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = 1.0F;
  return cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  const auto lock = locked();
  if (device >= Runtime::get().num_devices) {
    return cudaErrorInvalidDevice;
  }
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int* count) {
  const auto lock = locked();
  *count = Runtime::get().num_devices;
  return cudaSuccess;
}
cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  const auto lock = locked();
  *can = Runtime::get().unreachable.contains({device, peer}) ? 0 : 1;
  return cudaSuccess;
}
cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
  const auto lock = locked();
  const bool first = Runtime::get().peers.insert({current_device, peer}).second;
  return first ? cudaSuccess : cudaErrorPeerAccessAlreadyEnabled;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount:
      *value = Runtime::get().num_sms;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor:
      *value = 0;
      return cudaSuccess;
    default:
      return cudaErrorInvalidValue;
  }
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, Runtime::get().name.c_str());
  properties->major = 9;
  properties->multiProcessorCount = Runtime::get().num_sms;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *total_bytes = Runtime::get().memory_bytes;
  *free_bytes = *total_bytes - terrazzo::testing::fake_device_bytes();
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorName(cudaError_t) { return "cudaErrorFake"; }
const char* cudaGetErrorString(cudaError_t) { return "an error of the fake runtime"; }

}  // extern "C"
