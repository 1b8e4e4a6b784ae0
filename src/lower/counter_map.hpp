// The counters of one block: families of contiguous counters, numbered alike on every GPU and in
// every block (prologue, each layer, epilogue).
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace terrazzo {

enum class CounterFamily : uint32_t {
  kKv,       // [local KV head][row block]  q, k and v of a KV head's group are written
  kAttn,     // [row block]                 attention of all heads, at the row block's owner; with O
             //                             sharded of a GPU's own heads, there
  kPartO,    // [row block]                 partial sums of a sharded O of all ranks, at the owner
  kX1,       // [row block]
  kAct,      // [row block]
  kPart,     // [row block]                 partial sums of down of all ranks, at the owner
  kX,        // [row block]
  kMerge,    // [merge]                     partial attention results of one row and KV head, at the
             // owner
  kXg,       // [compact block]             gathered and normed rows
  kCand,     // [compact block]             candidates of all ranks, at the owner
  kSampled,  // [compact block]
  kCount
};
inline constexpr uint32_t kNumCounterFamilies = static_cast<uint32_t>(CounterFamily::kCount);

inline constexpr const char* kCounterFamilyNames[kNumCounterFamilies] = {
    "KV", "A", "PART_O", "X1", "ACT", "PART", "X", "M", "XG", "CAND", "SAMPLED"};

class CounterMap {
 public:
  CounterMap() = default;
  CounterMap(uint32_t row_blocks, uint32_t local_kv_heads, uint32_t compact_blocks, uint32_t merges)
      : row_blocks_(row_blocks) {
    const uint32_t sizes[kNumCounterFamilies] = {local_kv_heads * row_blocks,
                                                 row_blocks,
                                                 row_blocks,
                                                 row_blocks,
                                                 row_blocks,
                                                 row_blocks,
                                                 row_blocks,
                                                 merges,
                                                 compact_blocks,
                                                 compact_blocks,
                                                 compact_blocks};
    for (uint32_t i = 0; i < kNumCounterFamilies; ++i) {
      first_[i + 1] = first_[i] + sizes[i];
    }
  }

  uint32_t size() const { return first_[kNumCounterFamilies]; }

  /// Index within a block.
  int32_t at(CounterFamily family, uint32_t index) const {
    return static_cast<int32_t>(first_[static_cast<uint32_t>(family)] + index);
  }
  int32_t kv(uint32_t local_kv_head, uint32_t row_block) const {
    return at(CounterFamily::kKv, local_kv_head * row_blocks_ + row_block);
  }
  /// The same counter in the previous block: an earlier layer's (or the prologue's) output.
  int32_t previous(int32_t counter) const { return counter - static_cast<int32_t>(size()); }

  /// "KV[3]": the family and index of a counter within a block.
  std::string name(uint32_t index) const {
    for (uint32_t i = 0; i < kNumCounterFamilies; ++i) {
      if (index < first_[i + 1]) {
        return std::string(kCounterFamilyNames[i]) + "[" + std::to_string(index - first_[i]) + "]";
      }
    }
    return "outside[" + std::to_string(index) + "]";
  }

 private:
  uint32_t row_blocks_ = 0;
  std::array<uint32_t, kNumCounterFamilies + 1> first_{};
};

}  // namespace terrazzo
