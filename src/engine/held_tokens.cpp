#include "engine/held_tokens.hpp"

#include <algorithm>

#include "terrazzo/core/check.hpp"

namespace terrazzo {

std::vector<double> held_tokens(std::span<const int32_t> tokens, std::span<const int32_t> most,
                                uint32_t stride, size_t num_points, double unused) {
  constexpr const char* kOp = "held_tokens";
  check(tokens.size() == most.size(), kOp, "expected ", tokens.size(), " values of most, got ",
        most.size());
  check(stride > 0 && num_points > 0, kOp, "expected a stride and moments, got ", stride, " and ",
        num_points);
  // By the last moment at which a sequence is there; then summed from the end.
  std::vector<int64_t> count(num_points);
  std::vector<int64_t> now(num_points);
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (most[i] <= 0) {
      continue;
    }
    const uint32_t strides = (static_cast<uint32_t>(most[i]) + stride - 1) / stride;
    const size_t last = std::min<size_t>(strides, num_points - 1);
    ++count[last];
    now[last] += tokens[i];
  }
  std::vector<double> held(num_points);
  int64_t num_running = 0;
  int64_t sum = 0;
  for (size_t i = num_points; i-- > 0;) {
    num_running += count[i];
    sum += now[i];
    const auto came = static_cast<int64_t>(i * stride);
    held[i] =
        static_cast<double>(sum + num_running * came) + static_cast<double>(num_running) * unused;
  }
  return held;
}

}  // namespace terrazzo
