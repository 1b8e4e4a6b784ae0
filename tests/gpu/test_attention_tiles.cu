// The attention verbs of the Hopper machine: against double on the CPU, with bad numbers against
// the host machine's, and prefill against decode and split decode, bit for bit. Prints a line a
// case, exits with 1 if any failed.
//
// test_attention_tiles [small]
#include <launch_block.hpp>

#include <cmath>
#include <cstdio>
#include <span>
#include <string>
#include <vector>

#include "attention_kernels.cuh"
#include "attention_problem.hpp"
#include "attention_twin.hpp"
#include "device_array.hpp"
#include "require_gpu.hpp"
#include "tile_report.hpp"

namespace attention_test {

using terrazzo::testing::DeviceArray;
using terrazzo::testing::launch_blocks;
using terrazzo::testing::Report;
using terrazzo::testing::same_bits;
using terrazzo::testing::same_float;

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
constexpr Case kSmallCases[] = {
    {"one token", 0, 1, 0, 4096, 1.0f},
    {"rows in both halves", 62, 5, 37, 4096, 1.0f},
    {"rows on both sides of a split", 3, 6, 61, 64, 1.0f},
    {"references that move", 60, 3, 180, 128, 8.0f},
};
constexpr uint32_t kGroupSizes[] = {1, 3, 4, 8, 12, 16};

struct Result {
  std::vector<float> out;
  bool rounded_right;
};

template <class Launch>
Result collect(const Problem& problem, Unit unit, Launch launch_all) {
  DeviceArray<float> out(problem.out_elems());
  DeviceArray<std::byte> rounded(problem.out_elems() * sizeof(bf16));
  unit.out = out.get();
  unit.rounded = rounded.get();
  launch_all(unit);
  Result result{out.read(), false};
  result.rounded_right = problem.rounded_right(result.out, rounded.read());
  return result;
}

size_t different_bits(const std::vector<float>& a, const std::vector<float>& b) {
  size_t count = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    count += same_bits(a[i], b[i]) ? 0 : 1;
  }
  return count;
}

/// A problem's operands on the device, and its results by prefill, decode, and merged splits.
template <uint32_t kPanels, uint32_t kGroups>
class OnGpu {
 public:
  explicit OnGpu(const Problem& problem)
      : problem_(problem),
        keys_(problem.keys()),
        values_(problem.values()),
        prefill_queries_(problem.prefill_queries()),
        decode_queries_(problem.decode_queries()),
        unit_(problem.unit()) {
    unit_.k = reinterpret_cast<const std::byte*>(keys_.get());
    unit_.v = reinterpret_cast<const std::byte*>(values_.get());
  }

  Result prefill() {
    unit_.q = reinterpret_cast<const std::byte*>(prefill_queries_.get());
    const uint32_t heads = unit_.shape.group();
    return collect(problem_, unit_,
                   [&](const Unit& u) { launch_blocks(2, heads, Prefill<kPanels>{u}); });
  }
  Result decode() {
    unit_.q = reinterpret_cast<const std::byte*>(decode_queries_.get());
    return collect(problem_, unit_, [&](const Unit& u) {
      launch_blocks(u.args.rows, 1, Decode<kPanels, kGroups>{u});
    });
  }
  Result merge() {
    const ModelShape& shape = unit_.shape;
    const uint32_t rows = unit_.args.rows;
    const uint32_t splits = ceil_div(unit_.args.position + rows, shape.split_tokens);
    DeviceArray<float> partials(size_t{rows} * splits * shape.padded_group() *
                                shape.partial_elems());
    Unit unit = unit_;
    unit.q = reinterpret_cast<const std::byte*>(decode_queries_.get());
    unit.partials = partials.get();
    return collect(problem_, unit, [&](const Unit& u) {
      launch_blocks(rows, 1, Decode<kPanels, kGroups>{u});
      launch_blocks(rows, ceil_div(shape.group(), kPartialRowsPerStage), Merge<kPanels>{u});
    });
  }

 private:
  const Problem& problem_;
  DeviceArray<bf16> keys_;
  DeviceArray<bf16> values_;
  DeviceArray<bf16> prefill_queries_;
  DeviceArray<bf16> decode_queries_;
  Unit unit_;
};

template <uint32_t kPanels, uint32_t kGroups>
bool run_case(const Case& c, uint32_t group) {
  const Problem problem(c, kPanels * kPanelCols, group, 1 + group);
  OnGpu<kPanels, kGroups> gpu(problem);
  const Result first = gpu.prefill();
  const Result again = gpu.prefill();
  const Result whole = gpu.decode();
  const Result merged = gpu.merge();
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

const char* name_of(Bad bad) {
  const char* const names[] = {
      "none", "queries", "a key", "the first split's keys", "the last split's keys", "a value"};
  return names[static_cast<uint32_t>(bad)];
}

/// Results of spoiled operands: NaN where the host machine has it, the same infinities, and
/// what the bad numbers do not reach as without them.
template <uint32_t kPanels, uint32_t kGroups>
bool run_bad(const Case& c, uint32_t group, Bad bad) {
  Problem problem(c, kPanels * kPanelCols, group, 1 + group);
  const ModelShape shape = problem.unit().shape;
  const Result clean = OnGpu<kPanels, kGroups>(problem).prefill();
  const double tolerance = problem.twin_tolerance();
  problem.spoil(bad);
  const std::vector<float> twin = terrazzo::testing::twin_attention(
      shape, c.position, c.rows, problem.decode_queries(), problem.keys(), problem.values());
  OnGpu<kPanels, kGroups> gpu(problem);
  const Result results[] = {gpu.prefill(), gpu.decode(), gpu.merge()};
  const char* const forms[] = {"prefill", "decode", "merge"};
  const std::string name = "head_dim " + std::to_string(shape.head_dim) + " group " +
                           std::to_string(group) + ", bad: " + name_of(bad) + "; " + c.why;
  Report report(name.c_str());
  for (uint32_t form = 0; form < 3; ++form) {
    report.check(results[form].rounded_right, "the stage");
    for (size_t i = 0; i < twin.size(); ++i) {
      const auto query = static_cast<uint32_t>(i / shape.head_dim);
      if (form == 0 && problem.is_beside_bad_value(query)) {
        continue;
      }
      const float seen = results[form].out[i];
      const float wanted = twin[i];
      const bool is_near =
          same_float(seen, wanted) ||
          (std::isfinite(wanted) &&
           std::fabs(double{seen} - wanted) <= tolerance + 0x1p-6 * std::fabs(double{wanted}));
      const bool good = is_near && (problem.is_reached(query) || same_bits(seen, clean.out[i]));
      report.check(good, good
                             ? ""
                             : std::string(forms[form]) + " query " + std::to_string(query) + ": " +
                                   std::to_string(seen) + ", expected " + std::to_string(wanted));
    }
  }
  return report.finish();
}

bool run_bad_group(const Case& c, uint32_t group, Bad bad) {
  const bool small = group <= 8 ? run_bad<1, 1>(c, group, bad) : run_bad<1, 2>(c, group, bad);
  const bool large = group <= 8 ? run_bad<2, 1>(c, group, bad) : run_bad<2, 2>(c, group, bad);
  return small && large;
}

bool run_group(const Case& c, uint32_t group) {
  const bool narrow = group <= 8;
  const bool small = narrow ? run_case<1, 1>(c, group) : run_case<1, 2>(c, group);
  const bool large = narrow ? run_case<2, 1>(c, group) : run_case<2, 2>(c, group);
  return small && large;
}

}  // namespace attention_test

int main(int argc, char** argv) {
  terrazzo::testing::require_gpu();
  using namespace attention_test;
  const bool is_small = argc > 1 && std::string(argv[1]) == "small";
  int failed = 0;
  for (const Case& c :
       is_small ? std::span<const Case>(kSmallCases) : std::span<const Case>(kCases)) {
    for (const uint32_t group : kGroupSizes) {
      if (is_small && group % 4 != 0) {
        continue;
      }
      failed += run_group(c, group) ? 0 : 1;
      if (group != 4 && group != kMaxDecodeHeads) {
        continue;
      }
      for (uint32_t bad = 1; bad < static_cast<uint32_t>(Bad::kCount); ++bad) {
        failed += run_bad_group(c, group, static_cast<Bad>(bad)) ? 0 : 1;
      }
    }
  }
  std::printf(failed == 0 ? "PASS\n" : "FAIL: %d pairs of cases\n", failed);
  return failed == 0 ? 0 : 1;
}
