// Values in shared memory, by address.
#pragma once

#include <cstdint>

namespace terrazzo::sm90 {

template <class T>
__device__ __forceinline__ T& shared_ref(uint32_t address) {
  return *static_cast<T*>(__cvta_shared_to_generic(address));
}

template <class T>
__device__ __forceinline__ T load_shared(uint32_t address) {
  return shared_ref<const T>(address);
}

template <class T>
__device__ __forceinline__ void store_shared(uint32_t address, const T& value) {
  shared_ref<T>(address) = value;
}

}  // namespace terrazzo::sm90
