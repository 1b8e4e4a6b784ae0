// What a step's instructions look up: constant during the step, the same on every GPU.
#pragma once

#include <cstdint>

namespace terrazzo {

enum RowFlags : uint32_t {
  kDecodeRow = 1,  // its query goes to kQDecode; else to kQPrefill
};

struct RowInfo {
  int32_t token;         // >= 0: the id; -(s+1): the token sampled by the last step in logit row s
  uint32_t position;     // in its sequence
  uint32_t append_page;  // page of the KV pool that holds this position
  uint32_t page_table_offset;  // of its sequence in `page_ids`
  uint32_t flags;
  uint32_t reserved[3];
};
static_assert(sizeof(RowInfo) == 32);

inline constexpr uint32_t kNoLogits = 0xffffffffu;

struct LogitInfo {
  uint32_t row;              // of the step
  float temperature;         // 0: greedy
  uint32_t top_k;            // 0: off
  float top_p;               // 1: off
  uint64_t seed;             // of the request
  uint32_t output_position;  // keys the noise, with the seed and the token id
  uint32_t logits_slot;      // where kLogits keeps this row's logits, or kNoLogits
};
static_assert(sizeof(LogitInfo) == 32);

/// Rows that need their logits in memory: asked for, or sampled by top-k or top-p.
struct StepTables {
  const RowInfo* rows;          // [num_rows]
  const LogitInfo* logit_rows;  // [num_logit_rows], the compact rows
  const uint32_t* page_ids;     // page tables of all sequences, one after the other
  uint32_t num_rows;
  uint32_t num_logit_rows;
};

}  // namespace terrazzo
