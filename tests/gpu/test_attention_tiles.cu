// The attention verbs of the Hopper machine: against double on the CPU, and prefill against decode
// and split decode, bit for bit. Stand-alone: prints a line a case, exits with 1 if any failed.
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <source_location>
#include <string>
#include <vector>

#include "attention_kernels.cuh"
#include "require_gpu.hpp"

namespace attention_test {

void check(cudaError_t status,
           const std::source_location& where = std::source_location::current()) {
  if (status != cudaSuccess) {
    std::printf("FAIL line %u: %s\n", where.line(), cudaGetErrorString(status));
    std::exit(1);
  }
}

/// Device memory that begins as 0xff bytes: NaN as fp32 and as bf16.
template <class T>
class Buffer {
 public:
  explicit Buffer(size_t count) : count_(count) {
    check(cudaMalloc(&data_, count * sizeof(T)));
    poison();
  }
  explicit Buffer(const std::vector<T>& values) : Buffer(values.size()) {
    check(cudaMemcpy(data_, values.data(), count_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { cudaFree(data_); }

  void poison() { check(cudaMemset(data_, 0xff, count_ * sizeof(T))); }
  T* get() const { return data_; }
  std::vector<T> values() const {
    std::vector<T> out(count_);
    check(cudaMemcpy(out.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost));
    return out;
  }

 private:
  size_t count_;
  T* data_ = nullptr;
};

struct Case {
  const char* why;
  uint32_t row_begin;
  uint32_t rows;
  uint32_t position;
  uint32_t split_tokens;
  float q_scale;  // how sharp the softmax is
};

constexpr Case kCases[] = {
    {"a whole block from the start", 0, 128, 0, 4096, 1.0f},
    {"one token", 0, 1, 0, 4096, 1.0f},
    {"the last row of a block", 127, 1, 63, 4096, 1.0f},
    {"both halves, unaligned", 5, 100, 37, 4096, 1.0f},
    {"the second half only", 70, 21, 300, 4096, 3.0f},
    {"a split a page", 0, 128, 100, 64, 1.0f},
    {"rows on both sides of a split", 3, 120, 200, 256, 3.0f},
    {"several splits", 0, 128, 1000, 256, 1.0f},
};
constexpr uint32_t kGroupSizes[] = {1, 3, 4, 8, 12, 16};

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

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

  /// Largest error relative to its bound: P is rounded to bf16 in numerator and sum (2^-9 each);
  /// 2^-10 for fp32 sums of scores and outputs and the approximate exponential.
  double worst(const std::vector<float>& out) const {
    constexpr double kBound = 0x1p-8 + 0x1p-10;
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
      if (bits != to_bf16(out[i]).bits) {
        return false;
      }
    }
    return true;
  }

 private:
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
  std::mt19937 random_;
  std::vector<float> keys_;  // [token, head dim]
  std::vector<float> values_;
  std::vector<float> queries_;  // [token, head, head dim]
  Unit unit_{};
};

constexpr size_t kSharedBytes = sizeof(Shared) + 1024;

template <class Kernel>
void launch(Kernel kernel, dim3 grid, const Unit& unit) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
  kernel<<<grid, kThreads, kSharedBytes>>>(unit);
  check(cudaGetLastError());
  check(cudaDeviceSynchronize());
}

struct Result {
  std::vector<float> out;
  bool rounded_right;
};

template <class Launch>
Result collect(const Problem& problem, Unit unit, Launch launch_all) {
  Buffer<float> out(problem.out_elems());
  Buffer<std::byte> rounded(problem.out_elems() * sizeof(bf16));
  unit.out = out.get();
  unit.rounded = rounded.get();
  launch_all(unit);
  Result result{out.values(), false};
  result.rounded_right = problem.rounded_right(result.out, rounded.values());
  return result;
}

size_t different_bits(const std::vector<float>& a, const std::vector<float>& b) {
  size_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    count += std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i]) ? 1 : 0;
  }
  return count;
}

template <uint32_t kPanels, uint32_t kGroups>
bool run_case(const Case& c, uint32_t group) {
  const Problem problem(c, kPanels * kPanelCols, group, 1 + group);
  const Buffer<bf16> keys(problem.keys());
  const Buffer<bf16> values(problem.values());
  const Buffer<bf16> prefill_q(problem.prefill_queries());
  const Buffer<bf16> decode_q(problem.decode_queries());
  Unit unit = problem.unit();
  const auto bytes = [](const Buffer<bf16>& buffer) {
    return reinterpret_cast<const std::byte*>(buffer.get());
  };
  unit.k = bytes(keys);
  unit.v = bytes(values);
  unit.q = bytes(prefill_q);
  const auto run_prefill = [&](const Unit& u) { launch(prefill<kPanels>, dim3(2, group), u); };
  const Result first = collect(problem, unit, run_prefill);
  const Result again = collect(problem, unit, run_prefill);
  unit.q = bytes(decode_q);
  const Result whole = collect(
      problem, unit, [&](const Unit& u) { launch(decode<kPanels, kGroups>, dim3(c.rows), u); });
  const uint32_t splits = ceil_div(c.position + c.rows, c.split_tokens);
  Buffer<float> partials(size_t{c.rows} * splits * unit.shape.padded_group() *
                         unit.shape.partial_elems());
  unit.partials = partials.get();
  const Result merged = collect(problem, unit, [&](const Unit& u) {
    launch(decode<kPanels, kGroups>, dim3(c.rows), u);
    launch(merge<kPanels>, dim3(c.rows, ceil_div(group, kPartialRowsPerStage)), u);
  });

  const double worst = problem.worst(first.out);
  const size_t different[] = {different_bits(first.out, again.out),
                              different_bits(first.out, whole.out),
                              different_bits(first.out, merged.out)};
  const bool rounded =
      first.rounded_right && again.rounded_right && whole.rounded_right && merged.rounded_right;
  const bool pass = worst <= 1.0 && different[0] + different[1] + different[2] == 0 && rounded;
  std::printf(
      "%s head_dim %u group %2u: error %.3f of the bound (decode %.3f); different bits of %zu: "
      "again "
      "%zu, decode %zu, merge %zu; stage %s: %s\n",
      pass ? "PASS" : "FAIL", kPanels * kPanelCols, group, worst, problem.worst(whole.out),
      first.out.size(), different[0], different[1], different[2], rounded ? "right" : "wrong",
      c.why);
  return pass;
}

bool run_group(const Case& c, uint32_t group) {
  const bool narrow = group <= 8;
  const bool small = narrow ? run_case<1, 1>(c, group) : run_case<1, 2>(c, group);
  const bool large = narrow ? run_case<2, 1>(c, group) : run_case<2, 2>(c, group);
  return small && large;
}

}  // namespace attention_test

int main() {
  terrazzo::testing::require_gpu();
  using namespace attention_test;
  int failed = 0;
  for (const Case& c : kCases) {
    for (const uint32_t group : kGroupSizes) {
      failed += run_group(c, group) ? 0 : 1;
    }
  }
  std::printf(failed == 0 ? "PASS\n" : "FAIL: %d pairs of cases\n", failed);
  return failed == 0 ? 0 : 1;
}
