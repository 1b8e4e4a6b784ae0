// A unit of attention with random operands, and what double makes of them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "attention_kernels.cuh"
#include "tile_report.hpp"

namespace attention_test {

struct Case {
  const char* why;
  uint32_t row_begin;
  uint32_t rows;
  uint32_t position;
  uint32_t split_tokens;
  float q_scale;  // how sharp the softmax is
};

inline constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

/// Where a problem has numbers that no model should produce.
enum class Bad { kNowhere, kQueries, kKey, kKeysOfFirstSplit, kKeysOfLastSplit, kValue, kCount };

/// One case with its data; keys and values of all tokens, queries of the unit's.
class Problem {
 public:
  Problem(const Case& c, uint32_t head_dim, uint32_t group, uint32_t seed)
      : case_(c), group_(group), dim_(head_dim), tokens_(c.position + c.rows), random_(seed) {
    keys_ = draw(tokens_, 1.0f);
    values_ = draw(tokens_, 1.0f);
    queries_ = draw(c.rows * group, c.q_scale);
    unit_.shape = {1, group * head_dim, 64, group, 1, head_dim, 64, 1e-5f, 1, c.split_tokens};
    unit_.args = {};
    unit_.args.row_begin = c.row_begin;
    unit_.args.rows = c.rows;
    unit_.args.position = c.position;
  }

  /// NaN, infinities, subnormal and huge numbers: in one element of some queries, of a random
  /// token's key or value, or of all keys of the first or last split.
  void spoil(Bad bad) {
    const uint32_t token = case_.position + random_() % case_.rows;
    const uint32_t last_split = (tokens_ - 1) / case_.split_tokens * case_.split_tokens;
    if (bad == Bad::kQueries) {
      for (uint32_t row = random_() % 3; row < case_.rows * group_; row += 1 + random_() % 5) {
        spoil_row(queries_, row, terrazzo::testing::random_value(random_, 1));
        bad_queries_.insert(row);
      }
      return;
    }
    first_bad_token_ = bad == Bad::kKeysOfFirstSplit  ? 0
                       : bad == Bad::kKeysOfLastSplit ? last_split
                                                      : token;
    if (bad == Bad::kKey) {
      spoil_row(keys_, token, terrazzo::testing::random_value(random_, 1));
    } else if (bad == Bad::kKeysOfFirstSplit || bad == Bad::kKeysOfLastSplit) {
      const uint32_t end = std::min(first_bad_token_ + case_.split_tokens, tokens_);
      for (uint32_t row = first_bad_token_; row < end; ++row) {
        spoil_row(keys_, row, kPoison);
      }
    } else if (bad == Bad::kValue) {
      spoil_row(values_, token, terrazzo::testing::random_value(random_, 1));
      has_bad_value_ = true;
    }
  }

  /// Whether a query holds or sees something bad.
  bool is_reached(uint32_t query) const {
    return bad_queries_.contains(query) || token_of(query) >= first_bad_token_;
  }

  /// Whether the query does not see the bad value, but a later one of its unit does: on the GPU all
  /// rows of a tile are multiplied by whole pages, and zero times a bad value is NaN.
  bool is_beside_bad_value(uint32_t query) const { return has_bad_value_ && !is_reached(query); }

  /// Two machines of which each is within the bound of the exact result; for values of usual size,
  /// so before they are spoiled. A huge one adds as much of its own.
  double twin_tolerance() const {
    float most = 0;
    for (const float value : values_) {
      most = std::max(most, std::fabs(value));
    }
    return 2 * kBound * double{most};
  }

  Unit unit() const { return unit_; }
  size_t out_elems() const { return size_t{case_.rows} * group_ * dim_; }

  /// Tiles of `rows` rows, of which the first or those from `first` come from `source`, the rest is
  /// NaN.
  void put_tile(std::vector<bf16>& out, const std::vector<float>& source, uint32_t rows,
                uint32_t first, uint32_t count, uint32_t from, uint32_t stride,
                uint32_t panel) const {
    std::vector<bf16> tile(size_t{rows} * kPanelCols, to_bf16(kPoison));
    for (uint32_t row = 0; row < count; ++row) {
      for (uint32_t col = 0; col < kPanelCols; ++col) {
        tile[element_offset(first + row, col) / sizeof(bf16)] =
            to_bf16(source[size_t{from + row * stride} * dim_ + panel * kPanelCols + col]);
      }
    }
    out.insert(out.end(), tile.begin(), tile.end());
  }

  std::vector<bf16> pages(const std::vector<float>& source) const {
    std::vector<bf16> out;
    for (uint32_t first = 0; first < tokens_; first += kPageTokens) {
      for (uint32_t panel = 0; panel < dim_ / kPanelCols; ++panel) {
        put_tile(out, source, kPageTokens, 0, std::min(kPageTokens, tokens_ - first), first, 1,
                 panel);
      }
    }
    return out;
  }
  std::vector<bf16> keys() const { return pages(keys_); }
  std::vector<bf16> values() const { return pages(values_); }

  std::vector<bf16> prefill_queries() const {
    std::vector<bf16> out;
    for (uint32_t head = 0; head < group_; ++head) {
      for (uint32_t panel = 0; panel < dim_ / kPanelCols; ++panel) {
        put_tile(out, queries_, kRowBlock, case_.row_begin, case_.rows, head, group_, panel);
      }
    }
    return out;
  }

  std::vector<bf16> decode_queries() const {
    std::vector<bf16> out;
    for (uint32_t token = 0; token < case_.rows; ++token) {
      for (uint32_t panel = 0; panel < dim_ / kPanelCols; ++panel) {
        put_tile(out, queries_, unit_.shape.padded_group(), 0, group_, token * group_, 1, panel);
      }
    }
    return out;
  }

  /// Largest error relative to its bound.
  double worst(const std::vector<float>& out) const {
    const double scale = 1.0 / std::sqrt(double(dim_));
    double worst = 0;
    std::vector<double> p(tokens_);
    for (uint32_t i = 0; i < case_.rows * group_; ++i) {
      const uint32_t context = case_.position + i / group_ + 1;
      double highest = -INFINITY;
      for (uint32_t t = 0; t < context; ++t) {
        double sum = 0;
        for (uint32_t d = 0; d < dim_; ++d) {
          sum += double(queries_[size_t{i} * dim_ + d]) * keys_[size_t{t} * dim_ + d];
        }
        p[t] = sum * scale;
        highest = std::max(highest, p[t]);
      }
      double total = 0;
      for (uint32_t t = 0; t < context; ++t) {
        total += p[t] = std::exp(p[t] - highest);
      }
      for (uint32_t d = 0; d < dim_; ++d) {
        double sum = 0;
        double size = 0;
        for (uint32_t t = 0; t < context; ++t) {
          const double value = values_[size_t{t} * dim_ + d];
          sum += p[t] * value;
          size += p[t] * std::fabs(value);
        }
        const double error = std::fabs(out[size_t{i} * dim_ + d] - sum / total);
        const double relative = error / (kBound * size / total);
        worst = relative <= worst ? worst : relative;  // NaN stays
      }
    }
    return worst;
  }

  /// Whether the stage held `out`, rounded and swizzled.
  bool rounded_right(const std::vector<float>& out, const std::vector<std::byte>& rounded) const {
    for (size_t i = 0; i < out.size(); ++i) {
      const size_t line = i / kPanelCols;
      const uint32_t row = target_row(unit_, static_cast<uint32_t>(i / dim_ / group_)) % 8;
      const size_t at = line * kRowBytes + element_offset(row, i % kPanelCols) - row * kRowBytes;
      const auto bits = static_cast<uint16_t>(static_cast<uint16_t>(rounded[at]) |
                                              static_cast<uint16_t>(rounded[at + 1]) << 8);
      if (!terrazzo::testing::same_bits(to_float(bf16{bits}), to_float(to_bf16(out[i])))) {
        return false;
      }
    }
    return true;
  }

 private:
  /// P is rounded to bf16 in numerator and sum (2^-9 each); 2^-10 for fp32 sums of scores and
  /// outputs and the approximate exponential.
  static constexpr double kBound = 0x1p-8 + 0x1p-10;

  uint32_t token_of(uint32_t query) const { return case_.position + query / group_; }

  void spoil_row(std::vector<float>& rows, uint32_t row, float value) {
    rows[size_t{row} * dim_ + random_() % dim_] = to_float(to_bf16(value));
  }

  /// [rows, head dim], rounded to bf16.
  std::vector<float> draw(uint32_t rows, float scale) {
    std::normal_distribution<float> normal(0.0f, scale);
    std::vector<float> out(size_t{rows} * dim_);
    for (float& value : out) {
      value = to_float(to_bf16(normal(random_)));
    }
    return out;
  }

  Case case_;
  uint32_t group_;
  uint32_t dim_;
  uint32_t tokens_;
  std::set<uint32_t> bad_queries_;
  uint32_t first_bad_token_ = ~0u;  // with a bad key or value
  bool has_bad_value_ = false;
  std::mt19937 random_;
  std::vector<float> keys_;  // [token, head dim]
  std::vector<float> values_;
  std::vector<float> queries_;  // [token, head, head dim]
  Unit unit_{};
};

}  // namespace attention_test
