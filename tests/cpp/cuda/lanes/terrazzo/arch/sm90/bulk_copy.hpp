// Bulk copies on lanes: they move their bytes when the launch lets something happen.
#pragma once

#include <cstdint>

#include "cuda/lanes/lanes.hpp"

namespace terrazzo::sm90 {

inline void bulk_load_async(uint32_t target, const void* source, uint32_t bytes, uint32_t barrier) {
  lanes::require(bytes != 0 && bytes % 16 == 0 && target % 16 == 0 &&
                     reinterpret_cast<uintptr_t>(source) % 16 == 0,
                 "a bulk load that is not of whole 16 bytes");
  lanes::Launch::current().loads.push_back(
      {lanes::Launch::lane().block, target, static_cast<const std::byte*>(source), bytes, barrier});
}

inline void bulk_store_async(void* target, uint32_t source, uint32_t bytes) {
  lanes::require(bytes != 0 && bytes % 16 == 0 && source % 16 == 0 &&
                     reinterpret_cast<uintptr_t>(target) % 16 == 0,
                 "a bulk store that is not of whole 16 bytes");
  lanes::Launch::lane().stores.push_back(
      {static_cast<std::byte*>(target), source, bytes, false, false, {}});
}

inline void bulk_commit_group() {
  for (lanes::BulkStore& store : lanes::Launch::lane().stores) {
    store.committed = true;
  }
}

inline void bulk_wait_group_read() {
  lanes::Lane& lane = lanes::Launch::lane();
  for (size_t i = 0; i < lane.stores.size(); ++i) {
    if (lane.stores[i].committed) {
      lanes::Launch::current().perform_store(lane, i, false);
    }
  }
}

inline void bulk_wait_group() {
  lanes::Lane& lane = lanes::Launch::lane();
  for (size_t i = lane.stores.size(); i > 0; --i) {
    if (lane.stores[i - 1].committed) {
      lanes::Launch::current().perform_store(lane, i - 1, true);
    }
  }
}

}  // namespace terrazzo::sm90
