// What one step is asked to compute, as plain arrays, and the checks that guard the lowering.
#pragma once

#include <cstdint>
#include <span>

#include "terrazzo/core/shape.hpp"

namespace terrazzo {

/// A ragged batch of T rows from S sequences, of which R rows get a sampled token. Sequences lie
/// one after the other in row order.
struct StepRequest {
  std::span<const int32_t> token_ids;  // [T] >= 0: the id; -(s+1): sampled last step in logit row s
  std::span<const int32_t> seq_lens;   // [S] rows of each sequence in this step
  std::span<const int32_t> context_lens;  // [S] tokens already in the KV cache
  std::span<const int32_t> page_indptr;   // [S + 1] where each sequence's pages start in page_ids
  std::span<const int32_t> page_ids;      // [page_indptr[S]]
  std::span<const int32_t> logit_rows;    // [R] ascending
  std::span<const float> temperature;     // [R] 0: greedy
  std::span<const int32_t> top_k;         // [R] 0: off
  std::span<const float> top_p;           // [R] 1: off
  std::span<const uint64_t> seed;         // [R]
  std::span<const int32_t> output_position;  // [R]
  std::span<const uint8_t> want_logits;      // [R] 1: the row's full logits are returned
};

/// Whether this logit row is sampled from its full logits (and not from the tiles' candidates).
inline bool samples_from_logits(const StepRequest& request, size_t logit_row) {
  return request.temperature[logit_row] > 0 &&
         (request.top_k[logit_row] > 0 || request.top_p[logit_row] < 1);
}

/// Throws `Error` when the model cannot run on `shape.world` GPUs or its sizes contradict each
/// other.
void validate(const ModelShape& shape);

/// Throws `Error` when the request contradicts itself, the model or the limits.
void validate(const StepRequest& request, const ModelShape& shape, const StepLimits& limits);

}  // namespace terrazzo
