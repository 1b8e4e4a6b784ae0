// Cuts a step's attention into units of work: the same for every GPU and KV head.
#pragma once

#include <cstdint>
#include <vector>

#include "lower/step_request.hpp"

namespace terrazzo {

inline constexpr uint32_t kNotSplit = 0xffffffffu;

/// One instruction for each local query head (prefill) or KV head (decode).
struct AttentionUnit {
  uint32_t row;  // first, of the step
  uint32_t rows;
  uint32_t pages;        // KV pages that it visits for one head: its cost
  uint32_t first_block;  // prefill: row block of the sequence's first row of this step
  uint32_t split_begin;  // decode
  uint32_t num_splits;   // decode
  uint32_t split_row;    // decode: index in `split_rows`, or kNotSplit
  bool prefill;
};

/// A decode row whose partial results `attend_merge` combines. Slots and merges are numbered at the
/// owner of its row block; KV head h has slots first_slot + h * num_splits and merge first_merge +
/// h.
struct SplitRow {
  uint32_t row;
  uint32_t num_splits;
  uint32_t first_slot;
  uint32_t first_merge;
};

struct AttentionPlan {
  std::vector<AttentionUnit> units;  // longest first, equal ones in row order
  std::vector<SplitRow> split_rows;
  uint32_t num_merges = 0;  // most at any owner
};

AttentionPlan plan_attention(const StepRequest& request, const ModelShape& shape,
                             const StepLimits& limits, uint32_t num_sms);

}  // namespace terrazzo
