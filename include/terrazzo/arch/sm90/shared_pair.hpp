// Two floats at once in shared memory, by address: generic pointers cost a slower load.
#pragma once

#include <cstdint>

namespace terrazzo::sm90 {

/// PTX: st.shared
__device__ __forceinline__ void store_pair(uint32_t address, float first, float second) {
  asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(address), "f"(first), "f"(second)
               : "memory");
}

/// PTX: ld.shared
__device__ __forceinline__ void load_pair(float& first, float& second, uint32_t address) {
  asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
               : "=f"(first), "=f"(second)
               : "r"(address)
               : "memory");
}

}  // namespace terrazzo::sm90
