// 8x8 matrices between a warp's registers and shared memory, on lanes.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/lanes/lanes.hpp"

namespace terrazzo::sm90 {

/// What a lane brings to a move of matrices, as `values[m]` of matrix m.
struct MatrixMove {
  uint32_t address;
  uint32_t values[4];
};

template <uint32_t kMatrices, bool kStores, bool kTransposed>
void move_matrices(void* const* arguments) {
  const lanes::Block& block = *lanes::Launch::lane().block;
  const auto move = [&](uint32_t lane) { return static_cast<MatrixMove*>(arguments[lane]); };
  for (uint32_t m = 0; m < kMatrices; ++m) {
    for (uint32_t lane = 0; lane < lanes::kWarpLanes; ++lane) {
      for (uint32_t half = 0; half < 2; ++half) {
        const uint32_t major = lane / 4;
        const uint32_t minor = lane % 4 * 2 + half;
        const uint32_t row = kTransposed ? minor : major;
        const uint32_t column = kTransposed ? major : minor;
        const uint32_t line = move(m * 8 + row)->address;
        lanes::require(line % 16 == 0, "a matrix row that is not aligned");
        std::byte* const at = block.at(line + column * 2);
        auto* const value = reinterpret_cast<std::byte*>(&move(lane)->values[m]) + half * 2;
        kStores ? std::memcpy(at, value, 2) : std::memcpy(value, at, 2);
      }
    }
  }
}

inline void store_matrices_transposed(uint32_t address, uint32_t first, uint32_t second) {
  MatrixMove move{address, {first, second, 0, 0}};
  lanes::warp_collective(move_matrices<2, true, true>, &move);
}

inline void store_matrices(uint32_t address, const uint32_t (&values)[4]) {
  MatrixMove move{address, {values[0], values[1], values[2], values[3]}};
  lanes::warp_collective(move_matrices<4, true, false>, &move);
}

inline void load_matrices(uint32_t (&values)[4], uint32_t address) {
  MatrixMove move{address, {}};
  lanes::warp_collective(move_matrices<4, false, false>, &move);
  std::memcpy(values, move.values, sizeof(values));
}

inline void load_matrices_transposed(uint32_t (&values)[4], uint32_t address) {
  MatrixMove move{address, {}};
  lanes::warp_collective(move_matrices<4, false, true>, &move);
  std::memcpy(values, move.values, sizeof(values));
}

inline void multiply_matrices(float* d, const uint32_t (&a)[4], uint32_t b_low, uint32_t b_high) {
  struct Multiply {
    float* d;
    const uint32_t* a;
    uint32_t b[2];
  } own{d, a, {b_low, b_high}};
  lanes::warp_collective(
      [](void* const* arguments) {
        static lanes::WarpProduct product;
        const uint32_t* steps[lanes::kWarpLanes];
        float* results[lanes::kWarpLanes];
        for (uint32_t lane = 0; lane < lanes::kWarpLanes; ++lane) {
          const auto& part = *static_cast<const Multiply*>(arguments[lane]);
          steps[lane] = part.a;
          results[lane] = part.d;
          for (uint32_t half = 0; half < 2; ++half) {
            const uint32_t k = lane % 4 * 2 + half * 8;
            product.b[k][lane / 4] = lanes::low_half(part.b[half]);
            product.b[k + 1][lane / 4] = lanes::high_half(part.b[half]);
          }
        }
        lanes::read_fragments(product, steps);
        lanes::multiply(product, 8, results, true);
      },
      &own);
}

}  // namespace terrazzo::sm90
