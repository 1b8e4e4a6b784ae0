// A slot as consumers see it, and a stage as its consumer and storer see it.
#pragma once

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
      const auto& valid = role->shadow()->slot_valid[index];
      for (uint32_t at = offset / kWordBytes; at < (offset + bytes) / kWordBytes; ++at) {
        if (!valid[at]) {
          fail("poison", role->describe(), " reads byte ", at * kWordBytes, " of slot ", index,
               ", which has not landed or was never written");
        }
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
