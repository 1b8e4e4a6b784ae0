// What the KV cache will hold at moments to come.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace terrazzo {

/// For moments i * stride tokens from now, i < num_points: the sum over the sequences that still
/// run then of their tokens of now, the i * stride that came since, and `unused`. Sequence s runs
/// for the first ceil(most[s] / stride) strides, up to the last moment at most; one that has all
/// its tokens does not count, as its pages are about to be free.
std::vector<double> held_tokens(std::span<const int32_t> tokens,  // [S] of now
                                std::span<const int32_t> most,    // [S] to come
                                uint32_t stride, size_t num_points, double unused);

}  // namespace terrazzo
