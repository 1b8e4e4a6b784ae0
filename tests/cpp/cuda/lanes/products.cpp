// Products of a warp: wgmma from descriptors or fragments, and what they share with mma.sync.
#include <cstring>

#include "cuda/lanes/lanes.hpp"

namespace terrazzo::lanes {
namespace {

/// Where element (row, k) of a K-major operand lies, or element (k, row) of an MN-major one.
uint32_t element_address(uint64_t descriptor, uint32_t mn, uint32_t k, bool transposed) {
  const auto field = [&](int shift) {
    return static_cast<uint32_t>(descriptor >> shift & 0x3fff) * 16;
  };
  const uint32_t start = field(0);
  const uint32_t leading = field(16);
  const uint32_t stride = field(32);
  const bool swizzled = descriptor >> 62 == 1;
  if (!swizzled) {
    require(!transposed && descriptor >> 62 == 0, "an operand layout that is not emulated");
    return start + k / 8 * leading + mn / 8 * stride + mn % 8 * 16 + k % 8 * 2;
  }
  const uint32_t address =
      transposed ? start + mn / 64 * leading + k / 8 * stride + k % 8 * 128 + mn % 64 * 2
                 : start + mn / 8 * stride + mn % 8 * 128 + k * 2;
  return address ^ (address >> 7 & 7) << 4;
}

}  // namespace

void run_product(Warp& warp) {
  static WarpProduct product;
  const Product& first = warp.lanes[0].products.front();
  const Block& block = *warp.lanes[0].block;
  const uint32_t* steps[kWarpLanes];
  float* d[kWarpLanes];
  for (uint32_t i = 0; i < kWarpLanes; ++i) {
    const Product& own = warp.lanes[i].products.front();
    require(own.columns == first.columns && own.b == first.b && own.a == first.a &&
                own.accumulate == first.accumulate &&
                (own.steps == nullptr) == (first.steps == nullptr),
            "lanes of a warp that issue different products");
    steps[i] = own.steps;
    d[i] = own.d;
  }
  if (first.steps != nullptr) {
    read_fragments(product, steps);
  } else {
    const uint32_t first_row = warp.lanes[0].thread % 128 / kWarpLanes * 16;
    for (uint32_t row = 0; row < 16; ++row) {
      for (uint32_t k = 0; k < 16; ++k) {
        product.a[row][k] = bf16_at(block.at(element_address(first.a, first_row + row, k, false)));
      }
    }
  }
  for (uint32_t column = 0; column < first.columns; ++column) {
    for (uint32_t k = 0; k < 16; ++k) {
      product.b[k][column] =
          bf16_at(block.at(element_address(first.b, column, k, first.b_is_transposed)));
    }
  }
  multiply(product, first.columns, d, first.accumulate);
  for (Lane& lane : warp.lanes) {
    lane.products.erase(lane.products.begin());
    for (size_t& end : lane.commits) {
      end -= end > 0 ? 1 : 0;
    }
  }
}

namespace {

/// The first committed group.
void run_group(Warp& warp) {
  for (size_t left = warp.lanes[0].commits.front(); left > 0; --left) {
    run_product(warp);
  }
  for (Lane& lane : warp.lanes) {
    require(lane.commits.front() == 0, "lanes of a warp that commit different products");
    lane.commits.erase(lane.commits.begin());
  }
}

}  // namespace

void add_product(const Product& product) { Launch::lane().products.push_back(product); }

void commit_products() {
  Lane& lane = Launch::lane();
  lane.commits.push_back(lane.products.size());
}

void wait_for_products(size_t in_flight) {
  struct Argument {
    Warp* warp;
    size_t in_flight;
  } argument{Launch::lane().warp, in_flight};
  warp_collective(
      [](void* const* arguments) {
        const Argument& first = *static_cast<const Argument*>(arguments[0]);
        while (first.warp->lanes[0].commits.size() > first.in_flight) {
          run_group(*first.warp);
        }
      },
      &argument);
}

float bf16_at(const std::byte* address) {
  uint16_t bits;
  std::memcpy(&bits, address, sizeof(bits));
  return low_half(bits);
}

void read_fragments(WarpProduct& product, const uint32_t* const (&steps)[kWarpLanes]) {
  for (uint32_t lane = 0; lane < kWarpLanes; ++lane) {
    for (uint32_t i = 0; i < 4; ++i) {
      const uint32_t row = lane / 4 + i % 2 * 8;
      const uint32_t k = lane % 4 * 2 + i / 2 * 8;
      product.a[row][k] = low_half(steps[lane][i]);
      product.a[row][k + 1] = high_half(steps[lane][i]);
    }
  }
}

void multiply(const WarpProduct& product, uint32_t columns, float* const (&d)[kWarpLanes],
              bool accumulate) {
  static double sums[256];
  for (uint32_t row = 0; row < 16; ++row) {
    for (uint32_t column = 0; column < columns; ++column) {
      sums[column] = 0;
    }
    for (uint32_t k = 0; k < 16; ++k) {
      const double a = product.a[row][k];
      for (uint32_t column = 0; column < columns; ++column) {
        sums[column] += a * static_cast<double>(product.b[k][column]);
      }
    }
    for (uint32_t column = 0; column < columns; ++column) {
      float& value = d[row % 8 * 4 + column % 8 / 2][column / 8 * 4 + row / 8 * 2 + column % 2];
      value = static_cast<float>((accumulate ? static_cast<double>(value) : 0.0) + sums[column]);
    }
  }
}

}  // namespace terrazzo::lanes
