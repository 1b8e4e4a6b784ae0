// The verbs on accumulators, row vectors and panels against the host machine's, verb by verb, with
// tokens as rows and with operands swapped.
//
// test_panel_tiles [seed] [rounds]
#include <launch_block.hpp>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "device_array.hpp"
#include "panel_kernels.cuh"
#include "require_gpu.hpp"
#include "tile_report.hpp"

namespace terrazzo::testing {
namespace {

constexpr uint32_t kMostLines = kSlotBytes / (kRowBlock * sizeof(float));

PanelCase make_case(Random& random, uint32_t most_rows, uint32_t bad_one_in) {
  PanelCase test{};
  test.rows = random() % 3 == 0 ? most_rows : 1 + random() % most_rows;
  test.first_row = random() % (kRowBlock / kHalfRows) * kHalfRows;
  test.panel = random() % kPanelsPerColTile;
  test.head_dim = random() % 2 == 0 ? 64 : 128;
  test.head_panel = random() % (test.head_dim / kPanelCols);
  test.lines = 1 + random() % kMostLines;
  test.hidden = test.lines * kPanelCols;
  test.eps = 1e-5F;
  test.accumulators = random_values(random, size_t{kHalfRows} * kColTile, bad_one_in);
  test.sums = random_values(random, size_t{test.lines} * kRowBlock, bad_one_in * 8);
  for (float& sum : test.sums) {
    sum = std::fabs(sum);
  }
  test.factors = random_values(random, kHalfRows, bad_one_in);
  test.tables = random_values(random, size_t{kHalfRows} * test.head_dim, 0);
  for (float& value : test.tables) {
    value = random() % 16 == 0 ? std::round(std::sin(value)) : std::sin(value);
  }
  test.tile = random_bf16(random, size_t{kRowBlock} * kPanelCols, bad_one_in);
  test.weight = random_bf16(random, kPanelCols, bad_one_in);
  const uint32_t first = random() % kRowBlock;
  for (uint32_t row = 0; row < kHalfRows; ++row) {
    test.targets.push_back(random() % 2 == 0 ? first + row : random() % 4096);
  }
  return test;
}

template <class Acc>
std::unique_ptr<PanelResult> panel_on_gpu(const PanelCase& test) {
  DeviceArray<float> accumulators(test.accumulators);
  DeviceArray<float> sums(test.sums);
  DeviceArray<float> factors(test.factors);
  DeviceArray<float> tables(test.tables);
  DeviceArray<bf16> tile(test.tile);
  DeviceArray<bf16> weight(test.weight);
  DeviceArray<uint32_t> targets(test.targets);
  DeviceArray<PanelResult> out(1);
  launch_block(PanelVerbs<Acc>{{test.rows, test.first_row, test.panel, test.head_panel,
                                test.head_dim, test.lines, test.hidden, test.eps,
                                accumulators.get(), sums.get(), factors.get(), tables.get(),
                                tile.get(), weight.get(), targets.get(), out.get()}});
  return std::make_unique<PanelResult>(out.read()[0]);
}

std::string describe(uint32_t row, uint32_t column, float seen, float wanted) {
  char text[128];
  std::snprintf(text, sizeof text, "row %u column %u: %.9g, expected %.9g", row, column, seen,
                wanted);
  return text;
}

/// Relative to what is wanted; NaN and infinities must be the same ones.
bool near(float seen, float wanted, double tolerance) {
  return same_float(seen, wanted) ||
         (std::isfinite(wanted) &&
          std::fabs(double{seen} - wanted) <= tolerance * std::fabs(double{wanted}));
}

/// rcp.approx and rsqrt.approx, a unit in the last place each or two (PTX), and two roundings.
constexpr double kRstdTolerance = 8 * 0x1p-24;
/// 16 fma and 2 sums here, at most 64 fma there.
constexpr double kSquaresTolerance = (18 + 64) * 0x1p-24;

/// silu(gate) * up by approximations. The exponent of 2 is off by its own rounding, 2^-24 of it, on
/// either machine; ex2.approx and rcp.approx by 2^-22. Where exp(-gate) passes 2^126 the reciprocal
/// is flushed to zero, so what is smaller vanishes, and an infinite `up` makes NaN of it.
bool gated_agrees(float seen, float wanted, float gate, float up) {
  const bool may_vanish = gate < -86.0F && gate > -91.0F;
  if (may_vanish && std::isinf(up)) {
    return std::isnan(seen) || std::isinf(seen);
  }
  const double size = std::isfinite(gate) ? std::fabs(double{gate}) : 0;
  const double vanishing = size * 0x1p-126 * std::fabs(double{up});
  const double tolerance = (2 * size + 16) * 0x1p-24 * std::fabs(double{wanted});
  return same_float(seen, wanted) ||
         (std::isfinite(wanted) &&
          std::fabs(double{seen} - wanted) <= tolerance + vanishing + 0x1p-149);
}

class Panels {
 public:
  explicit Panels(const char* shape) : shape_(shape) {}

  void check(const PanelCase& test, const PanelResult& seen, const PanelResult& wanted,
             bool is_plain) {
    for (uint32_t row = 0; row < test.rows; ++row) {
      same(sums_, row, 0, seen.sums[row], wanted.sums[row]);
      check_near(rstd_, row, seen.rstd[row], wanted.rstd[row], kRstdTolerance);
      check_near(squares_, row, seen.squares[row], wanted.squares[row], kSquaresTolerance);
      for (uint32_t col = 0; col < kPanelCols; ++col) {
        for (uint32_t p = 0; p < kPanelsPerColTile; ++p) {
          same(scaled_, row, p * kPanelCols + col, seen.scaled[p][row][col],
               wanted.scaled[p][row][col]);
        }
        same(added_, row, col, seen.added[row][col], wanted.added[row][col]);
        same(rotated_, row, col, seen.rotated[row][col], wanted.rotated[row][col]);
        same(stored_, row, col, to_float(seen.stored[row][col]), to_float(wanted.stored[row][col]));
        same(with_sums_, row, col, to_float(seen.stored_with_sums[row][col]),
             to_float(wanted.stored_with_sums[row][col]));
        check_gated(test, seen, wanted, row, col);
        if (is_plain) {
          same(loads_, row, col, seen.plain[row][col], wanted.plain[row][col]);
          same(loads_, row, col, seen.gathered[row][col], wanted.gathered[row][col]);
          same(weighted_, row, col, seen.weighted[row][col], wanted.weighted[row][col]);
          same(cleared_, row, col, seen.cleared[row][col], wanted.cleared[row][col]);
        }
      }
    }
  }

  bool finish(bool is_plain) const {
    std::printf("%s:\n", shape_);
    bool good = true;
    for (const Report* report : {&sums_, &rstd_, &scaled_, &added_, &rotated_, &stored_,
                                 &with_sums_, &squares_, &gated_, &stored_gated_}) {
      good &= report->finish();
    }
    for (const Report* report : {&loads_, &weighted_, &cleared_}) {
      good &= !is_plain || report->finish();
    }
    return good;
  }

 private:
  static void same(Report& report, uint32_t row, uint32_t column, float seen, float wanted) {
    const bool good = same_bits(seen, wanted);
    report.check(good, good ? "" : describe(row, column, seen, wanted));
  }
  static void check_near(Report& report, uint32_t row, float seen, float wanted, double tolerance) {
    const bool good = near(seen, wanted, tolerance);
    report.check(good, good ? "" : describe(row, 0, seen, wanted));
  }

  /// Columns of gate and up alternate in runs of kPairRun.
  void check_gated(const PanelCase& test, const PanelResult& seen, const PanelResult& wanted,
                   uint32_t row, uint32_t col) {
    for (uint32_t p = 0; p < kPanelsPerColTile / 2; ++p) {
      const float* const pair = &test.accumulators[row * kColTile + 2 * p * kPanelCols +
                                                   col / kPairRun * 2 * kPairRun + col % kPairRun];
      const float value = seen.gated[p][row][col];
      const float want = wanted.gated[p][row][col];
      const bool good = gated_agrees(value, want, pair[0], pair[kPairRun]);
      gated_.check(good, good ? "" : describe(row, p * kPanelCols + col, value, want));
      same(stored_gated_, row, p * kPanelCols + col, to_float(seen.stored_gated[p][row][col]),
           to_float(to_bf16(value)));
    }
  }

  const char* shape_;
  Report sums_{"add_lines"};
  Report rstd_{"rstd"};
  Report scaled_{"scale_rows, take_panel"};
  Report added_{"add_tile"};
  Report rotated_{"rotate"};
  Report stored_{"store_panel"};
  Report with_sums_{"store_panel_with_sums"};
  Report squares_{"store_panel_with_sums, squares"};
  Report gated_{"take_gated_panel"};
  Report stored_gated_{"store_panel, gated"};
  Report loads_{"load_plain_rows, load_gathered_rows"};
  Report weighted_{"scale_panel"};
  Report cleared_{"clear, add_tile"};
};

/// Everything that both shapes have must be the same bits.
void check_equal(Report& report, const PanelCase& test, const PanelResult& plain,
                 const PanelResult& swapped) {
  for (uint32_t row = 0; row < test.rows; ++row) {
    bool good = same_bits(plain.rstd[row], swapped.rstd[row]) &&
                same_bits(plain.squares[row], swapped.squares[row]);
    for (uint32_t i = 0; i < kColTile / 2; ++i) {
      good &= same_bits(plain.gated[i / kPanelCols][row][i % kPanelCols],
                        swapped.gated[i / kPanelCols][row][i % kPanelCols]);
    }
    report.check(good, "row " + std::to_string(row));
  }
}

bool run(Random& random, uint32_t rounds) {
  Panels plain("tokens as rows");
  Panels swapped("operands swapped");
  Report equal("same bits in both shapes");
  for (uint32_t round = 0; round < rounds; ++round) {
    const bool fits = round % 2 == 0;
    const uint32_t most = fits ? sm90::kSmallTokensPerConsumer : kHalfRows;
    const uint32_t bad_one_in[] = {0, 6, 200};  // none; in most rows; in some
    const PanelCase test = make_case(random, most, bad_one_in[round % 3]);
    const auto wanted = std::make_unique<PanelResult>(twin_panel(test));
    const auto seen = panel_on_gpu<sm90::Accumulator>(test);
    plain.check(test, *seen, *wanted, true);
    if (fits) {
      const auto small = panel_on_gpu<sm90::SmallAccumulator>(test);
      swapped.check(test, *small, *wanted, false);
      check_equal(equal, test, *seen, *small);
    }
  }
  const bool good[] = {plain.finish(true), swapped.finish(false), equal.finish()};
  return good[0] && good[1] && good[2];
}

}  // namespace
}  // namespace terrazzo::testing

int main(int argc, char** argv) {
  using namespace terrazzo::testing;
  require_gpu();
  try {
    Random random(argc > 1 ? static_cast<uint32_t>(std::atoi(argv[1])) : 1);
    const bool good = run(random, argc > 2 ? std::atoi(argv[2]) : 120);
    std::printf("%s\n", good ? "PASS" : "FAIL");
    return good ? 0 : 1;
  } catch (const std::exception& error) {
    std::printf("FAIL %s\n", error.what());
    return 1;
  }
}
