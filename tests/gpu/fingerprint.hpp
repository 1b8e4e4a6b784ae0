// Sums over a GPU's memory that change with any bit of it, so that a step's results are compared
// without leaving the GPU.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <span>

#include "terrazzo/core/config.hpp"
#include "terrazzo/core/geometry.hpp"

namespace terrazzo::testing {

inline constexpr uint32_t kAllRows = ~0u;

/// Whole words of 8 bytes. Where it is tiles of 64 columns, only the first rows count.
struct Region {
  const uint64_t* data;
  uint64_t words;
  uint64_t blank;   // words that are so do not count: where nothing was written
  uint32_t rows;    // that count; kAllRows where it is no tiles
  uint32_t panels;  // of a row block
};

inline constexpr uint32_t kMostRegions = 32;
inline constexpr uint32_t kRowWords = kRowBytes / sizeof(uint64_t);

/// What a word adds to its region's sum.
constexpr TERRAZZO_FN uint64_t fingerprint_word(uint64_t word, uint64_t index) {
  uint64_t bits = word ^ (index + 1) * 0x9e3779b97f4a7c15u;
  bits = (bits ^ bits >> 30) * 0xbf58476d1ce4e5b9u;
  bits = (bits ^ bits >> 27) * 0x94d049bb133111ebu;
  return bits ^ bits >> 31;
}

/// Whether the word at `index` counts.
constexpr TERRAZZO_FN bool counts(const Region& region, uint64_t index) {
  if (region.data[index] == region.blank) {
    return false;
  }
  if (region.rows == kAllRows) {
    return true;
  }
  const uint64_t row = index / kRowWords;
  const uint64_t block = row / kRowBlock / region.panels;
  return block * kRowBlock + row % kRowBlock < region.rows;
}

/// sums[i] becomes the sum of regions[i]; both are the memory of the stream's device. Asynchronous.
void launch_fingerprints(std::span<const Region> regions, uint64_t* sums, cudaStream_t stream);

}  // namespace terrazzo::testing
