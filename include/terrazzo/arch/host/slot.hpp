// A slot as consumers see it, and a stage as its consumer and storer see it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "terrazzo/arch/host/role.hpp"

namespace terrazzo::host {

/// An input slot. Every read goes through `read`, which on the checked machine refuses bytes that
/// have not landed or that nobody wrote.
struct Slot {
  std::byte* data;
  uint32_t index;
  Role* role;

  const std::byte* read(uint32_t offset, uint32_t bytes) const {
    if (role->checked()) {
      if (!role->holds_slot(index)) {
        fail("poison", role->describe(), " reads slot ", index,
             " before its full barrier, or after it gave the slot back");
      }
      const uint8_t* const valid = role->shadow()->slot_valid[index].data();
      const uint8_t* const end = valid + ceil_div(offset + bytes, kShadowBytes);
      const uint8_t* const bad = std::find(valid + offset / kShadowBytes, end, uint8_t{0});
      if (bad != end) {
        fail("poison", role->describe(), " reads byte ", (bad - valid) * kShadowBytes, " of slot ",
             index, ", which has not landed or was never written");
      }
    }
    return data + offset;
  }
};

/// An output stage: a tile of 64 rows of 128 bytes and a small vector beside it.
struct Stage {
  std::byte* tile;
  float* vector;
  uint32_t index;
};

}  // namespace terrazzo::host
