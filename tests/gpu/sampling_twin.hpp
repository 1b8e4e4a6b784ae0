// The host machine's sampling verbs, for comparison: the host compiler's side of
// test_sampling_tiles.
#pragma once

#include <cstdint>
#include <vector>

#include "terrazzo/core/bf16.hpp"
#include "terrazzo/core/geometry.hpp"
#include "terrazzo/core/heap.hpp"
#include "terrazzo/core/step_tables.hpp"

namespace terrazzo::testing {

/// Candidates of [rows][256] logits, as lm_head finds them in one tile.
std::vector<Candidate> twin_candidates(const std::vector<float>& logits, uint32_t rows,
                                       uint32_t columns, uint32_t first_id, uint32_t vocab,
                                       const std::vector<LogitInfo>& infos);

/// The candidates of all vocabulary tiles of a row.
std::vector<Candidate> twin_row_candidates(const float* logits, uint32_t vocab,
                                           const LogitInfo& info);

/// What sample's consumer makes of [rows][tiles] candidates and [rows][vocab] logits.
std::vector<SampledToken> twin_sample(const std::vector<Candidate>& candidates,
                                      const std::vector<float>& logits, uint32_t vocab,
                                      const std::vector<LogitInfo>& infos);

struct GatherCase {
  uint32_t lines;
  uint32_t slot_rows;
  uint32_t first_row;
  uint32_t rows;
  uint32_t hidden;
  float eps;
  std::vector<float> sums;        // [lines][slot_rows][4]
  std::vector<uint32_t> sources;  // [rows]: their rows in the step
  std::vector<bf16> tile;         // [slot_rows][64], each row swizzled for its source
  std::vector<bf16> weight;       // [64]
};

/// The stage after gather_norm of one panel: [64][64] bf16, swizzled.
std::vector<bf16> twin_gather(const GatherCase& test);

}  // namespace terrazzo::testing
