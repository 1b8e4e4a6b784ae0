// Small integer arithmetic.
#pragma once

#include "terrazzo/core/config.hpp"

namespace terrazzo {

template <class T>
constexpr TERRAZZO_FN T ceil_div(T value, T divisor) {
  return (value + divisor - 1) / divisor;
}

template <class T>
constexpr TERRAZZO_FN T round_up(T value, T multiple) {
  return ceil_div(value, multiple) * multiple;
}

static_assert(ceil_div(65, 64) == 2 && round_up(65, 64) == 128 && round_up(64, 64) == 64);

}  // namespace terrazzo
