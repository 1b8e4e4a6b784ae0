// The host machine's attention verbs, for comparison: the host compiler's side of
// test_attention_tiles.
#pragma once

#include <cstdint>
#include <vector>

#include "terrazzo/core/bf16.hpp"
#include "terrazzo/core/shape.hpp"

namespace terrazzo::testing {

/// Attention of tokens [position, position + rows) to all before them and themselves, splits folded
/// in ascending order; [token][head][head dim].
///
/// queries: [token][panel][padded group] tiles; keys, values: [page][panel] tiles.
std::vector<float> twin_attention(const ModelShape& shape, uint32_t position, uint32_t rows,
                                  const std::vector<bf16>& queries, const std::vector<bf16>& keys,
                                  const std::vector<bf16>& values);

}  // namespace terrazzo::testing
