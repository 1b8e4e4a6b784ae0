// Two floats at once in shared memory, on lanes.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/lanes/lanes.hpp"

namespace terrazzo::sm90 {

inline void store_pair(uint32_t address, float first, float second) {
  const float pair[2] = {first, second};
  std::memcpy(lanes::Launch::lane().block->at(address), pair, sizeof(pair));
}

inline void load_pair(float& first, float& second, uint32_t address) {
  float pair[2];
  std::memcpy(pair, lanes::Launch::lane().block->at(address), sizeof(pair));
  first = pair[0];
  second = pair[1];
}

}  // namespace terrazzo::sm90
