#include "lower/attention_plan.hpp"

#include <algorithm>
#include <array>

namespace terrazzo {
namespace {

constexpr uint32_t kMaxDecodeRows = 16;  // of one instruction
constexpr uint32_t kPartsOfShare =
    8;  // an instruction takes at most this part of an SM's even share

class Planner {
 public:
  Planner(const StepRequest& request, const ModelShape& shape, const StepLimits& limits,
          uint32_t num_sms)
      : request_(request), shape_(shape), limits_(limits) {
    const uint64_t share = total_pages() / std::max(num_sms, 1u);
    share_pages_ = static_cast<uint32_t>(std::min<uint64_t>(share, UINT32_MAX));
    unit_pages_ = std::max(share_pages_ / kPartsOfShare, 1u);
    pair_pages_ = share_pages_ - share_pages_ / 3;
  }

  AttentionPlan plan() {
    uint32_t row = 0;
    for (uint32_t s = 0; s < request_.seq_lens.size(); ++s) {
      const auto length = static_cast<uint32_t>(request_.seq_lens[s]);
      const auto context = static_cast<uint32_t>(request_.context_lens[s]);
      if (length > 1) {
        add_prefill(row, length, context);
      } else if (!add_split(row, context + 1)) {
        add_decode(row, context + 1);
      }
      row += length;
    }
    std::stable_sort(plan_.units.begin(), plan_.units.end(),
                     [](const auto& a, const auto& b) { return a.pages > b.pages; });
    plan_.num_merges = *std::max_element(merges_.begin(), merges_.end());
    return std::move(plan_);
  }

 private:
  /// KV pages that all units of one GPU visit.
  uint64_t total_pages() const {
    uint64_t total = 0;
    uint32_t row = 0;
    for (size_t s = 0; s < request_.seq_lens.size(); ++s) {
      const auto length = static_cast<uint32_t>(request_.seq_lens[s]);
      const uint64_t pages =
          ceil_div(static_cast<uint32_t>(request_.context_lens[s]) + length, kPageTokens);
      const uint32_t blocks = (row + length - 1) / kRowBlock - row / kRowBlock + 1;
      total += length > 1 ? pages * blocks * shape_.local_heads() : pages * shape_.local_kv_heads();
      row += length;
    }
    return total;
  }

  uint32_t splits_of(uint32_t tokens) const {
    return tokens <= shape_.split_tokens ? 1 : ceil_div(tokens, shape_.split_tokens);
  }

  void add_prefill(uint32_t first_row, uint32_t length, uint32_t context) {
    const uint32_t end = first_row + length;
    for (uint32_t row = first_row; row < end;) {
      const uint32_t stop = std::min((row / kRowBlock + 1) * kRowBlock, end);
      const uint32_t tokens = context + (stop - first_row);
      plan_.units.push_back({.row = row,
                             .rows = stop - row,
                             .pages = ceil_div(tokens, kPageTokens),
                             .first_block = first_row / kRowBlock,
                             .split_begin = 0,
                             .num_splits = 0,
                             .split_row = kNotSplit,
                             .prefill = true});
      row = stop;
    }
  }

  /// Joins the open group of neighbouring rows or opens a new one.
  void add_decode(uint32_t row, uint32_t tokens) {
    const uint32_t pages = ceil_div(tokens, kPageTokens);
    const uint32_t splits = splits_of(tokens);
    if (!plan_.units.empty()) {
      AttentionUnit& group = plan_.units.back();
      const bool neighbour = !group.prefill && group.split_row == kNotSplit &&
                             group.row + group.rows == row &&
                             group.row / kHalfRows == row / kHalfRows;
      // Two rows keep both consumers of an SM busy.
      const uint32_t most = group.rows == 1 ? std::max(unit_pages_, pair_pages_) : unit_pages_;
      if (neighbour && group.rows < kMaxDecodeRows && group.pages + pages <= most) {
        ++group.rows;
        group.pages += pages;
        group.num_splits = std::max(group.num_splits, splits);
        return;
      }
    }
    plan_.units.push_back(decode_unit(row, pages, 0, splits, kNotSplit));
  }

  /// Splits a row that would keep one SM busy for longer than its share; false where it need not or
  /// cannot be split (its result has the same bits either way).
  bool add_split(uint32_t row, uint32_t tokens) {
    const uint32_t pages = ceil_div(tokens, kPageTokens);
    const uint32_t splits = splits_of(tokens);
    if (splits < 2 || pages <= share_pages_) {
      return false;
    }
    // With O sharded every GPU merges its own heads, and all use their scratch alike: as GPU 0.
    const uint32_t owner = shape_.attention_gpu(0, row / kRowBlock);
    const uint64_t slots = uint64_t{splits} * shape_.attention_kv_heads();
    if (slots_[owner] + slots > limits_.max_partials) {
      return false;
    }
    const auto index = static_cast<uint32_t>(plan_.split_rows.size());
    plan_.split_rows.push_back({row, splits, slots_[owner], merges_[owner]});
    slots_[owner] += static_cast<uint32_t>(slots);
    merges_[owner] += shape_.attention_kv_heads();
    const uint32_t split_pages = shape_.split_tokens / kPageTokens;
    const uint32_t step = std::max(unit_pages_ / split_pages, 1u);
    for (uint32_t begin = 0; begin < splits; begin += step) {
      const uint32_t count = std::min(step, splits - begin);
      const uint32_t last = std::min((begin + count) * split_pages, pages);
      plan_.units.push_back(decode_unit(row, last - begin * split_pages, begin, count, index));
    }
    return true;
  }

  static AttentionUnit decode_unit(uint32_t row, uint32_t pages, uint32_t split_begin,
                                   uint32_t num_splits, uint32_t split_row) {
    return {.row = row,
            .rows = 1,
            .pages = pages,
            .first_block = row / kRowBlock,
            .split_begin = split_begin,
            .num_splits = num_splits,
            .split_row = split_row,
            .prefill = false};
  }

  const StepRequest& request_;
  const ModelShape& shape_;
  const StepLimits& limits_;
  uint32_t share_pages_;                     // an SM's even share
  uint32_t unit_pages_;                      // most of a group of rows
  uint32_t pair_pages_;                      // most of two rows
  std::array<uint32_t, kMaxGpus> slots_{};   // in use, by GPU
  std::array<uint32_t, kMaxGpus> merges_{};  // by GPU
  AttentionPlan plan_;
};

}  // namespace

AttentionPlan plan_attention(const StepRequest& request, const ModelShape& shape,
                             const StepLimits& limits, uint32_t num_sms) {
  return Planner(request, shape, limits, num_sms).plan();
}

}  // namespace terrazzo
