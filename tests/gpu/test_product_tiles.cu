// The product verbs in all their forms: against the host machine's within the rounding of both,
// against each other bit for bit, and on an H100 against the tensor core's exact rule.
//
// test_product_tiles [seed] [rounds]
#include <launch_block.hpp>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "device_array.hpp"
#include "product_kernels.cuh"
#include "require_gpu.hpp"
#include "tile_report.hpp"

namespace terrazzo::testing {
namespace {

constexpr uint32_t kTokens = kRowBlock;
constexpr uint32_t kMostKTiles = 7;

enum class Operands { kPlain, kPositive, kSpread, kSmall, kBad, kCount };

/// A bf16 value of row kind `kind`.
float draw(Random& random, Operands kind) {
  std::normal_distribution<float> normal;
  float value = normal(random);
  switch (kind) {
    case Operands::kPositive:
      value = std::fabs(value);
      break;
    case Operands::kSpread:
      value = random() % 4 == 0 ? std::copysign(0.0F, value)
                                : std::ldexp(value, static_cast<int>(random() % 50) - 25);
      break;
    case Operands::kSmall:  // subnormal operands, and products of normal ones that are subnormal
      value = std::ldexp(value, random() % 2 == 0 ? -128 : -66);
      break;
    default:
      break;
  }
  return to_float(to_bf16(value));
}

/// [rows][depth]. kBad: plain rows, some of which hold an infinity, a NaN or something huge.
std::vector<float> draw_rows(Random& random, uint32_t rows, uint32_t depth, Operands kind) {
  std::vector<float> values(size_t{rows} * depth);
  for (float& value : values) {
    value = draw(random, kind);
  }
  if (kind == Operands::kBad) {
    for (uint32_t row = 0; row < rows; ++row) {
      const float bad[] = {kNaN, kInf, -kInf, 0x1p+100F, -0x1p+100F, 0.0F};
      for (uint32_t left = random() % 4 == 0 ? 1 + random() % 2 : 0; left > 0; --left) {
        values[row * depth + random() % depth] = bad[random() % std::size(bad)];
      }
    }
  }
  return values;
}

std::vector<std::byte> tiles_of(const std::vector<float>& values, uint32_t rows, uint32_t k_tiles) {
  std::vector<std::byte> out(size_t{k_tiles} * rows * kRowBytes);
  for (uint32_t k = 0; k < k_tiles; ++k) {
    for (uint32_t row = 0; row < rows; ++row) {
      for (uint32_t col = 0; col < kPanelCols; ++col) {
        const bf16 value = to_bf16(values[(row * k_tiles + k) * kPanelCols + col]);
        std::memcpy(&out[k * rows * kRowBytes + element_offset(row, col)], &value, sizeof(value));
      }
    }
  }
  return out;
}

ProductCase make_case(Random& random, uint32_t k_tiles, Operands kind) {
  const uint32_t depth = k_tiles * kPanelCols;
  ProductCase test{k_tiles,
                   draw_rows(random, kTokens, depth, kind),
                   draw_rows(random, kColTile, depth, kind),
                   {},
                   {}};
  test.tokens = tiles_of(test.token_values, kTokens, k_tiles);
  test.weights = tiles_of(test.weight_values, kColTile, k_tiles);
  return test;
}

/// Exact result, and the sum of the sizes of its terms.
struct Exact {
  double value = 0;
  double size = 0;        // of finite terms
  bool is_mixed = false;  // terms of both signs beyond fp32: the order decides what overflows
};

Exact exact_product(const ProductCase& test, uint32_t token, uint32_t column) {
  const uint32_t depth = test.k_tiles * kPanelCols;
  Exact out;
  bool signs[2] = {};
  for (uint32_t k = 0; k < depth; ++k) {
    const double term = double{test.token_values[token * depth + k]} *
                        double{test.weight_values[column * depth + k]};
    out.value += term;
    out.size += std::isfinite(term) ? std::fabs(term) : 0;
    signs[term < 0 ? 1 : 0] |= std::fabs(term) >= 0x1p+120;
  }
  out.is_mixed = signs[0] && signs[1];
  return out;
}

/// How far two machines may be apart. A k16 step of the tensor core cuts 17 addends to 2^-25 of the
/// largest one's power of two and their sum to 2^-23, 5.25 * 2^-23 of the terms' size; 16 fma of
/// the host round by 2^-24 each, 8 * 2^-23. Near zero a unit is 2^-149.
double rounding_bound(const ProductCase& test, const Exact& exact) {
  const double steps = test.k_tiles * kPanelCols / 16;
  return steps * (13.25 * 0x1p-23 * exact.size + 17 * 0x1p-149);
}

bool agrees(const ProductCase& test, const Exact& exact, float seen, float wanted) {
  if (std::isnan(exact.value)) {
    return std::isnan(seen) && std::isnan(wanted);
  }
  if (exact.is_mixed) {
    return true;
  }
  if (std::isinf(exact.value) || exact.size >= 0x1p+130) {
    return std::isinf(seen) && seen == wanted && std::signbit(seen) == (exact.value < 0);
  }
  const double bound = rounding_bound(test, exact);
  return std::fabs(double{seen} - exact.value) <= bound &&
         std::fabs(double{seen} - double{wanted}) <= bound;
}

template <class Body>
std::vector<float> run_form(const ProductPart& part, DeviceArray<std::byte>& tokens,
                            DeviceArray<std::byte>& weights) {
  DeviceArray<float> out(size_t{kHalfRows} * kColTile);
  launch_block(Body{{tokens.get(), weights.get(), out.get(), part}});
  return out.read();
}

using RunForm = std::vector<float> (*)(const ProductPart&, DeviceArray<std::byte>&,
                                       DeviceArray<std::byte>&);

struct Form {
  ProductForm form;
  RunForm run;
};

template <uint32_t kPanels>
constexpr Form plain() {
  return {{kPanels, 0, 1, false}, run_form<WideProduct<kPanels>>};
}

template <uint32_t kPanels, uint32_t kTokens, uint32_t kTurn, bool kPaired = false>
constexpr Form swapped() {
  return {{kPanels, kTokens, kTurn, kPaired},
          run_form<SmallProduct<kPanels, kTokens, kTurn, kPaired>>};
}

/// Those of instructions/gemm_stream.hpp; the first is what the others are compared with.
constexpr Form kForms[] = {
    plain<4>(),          plain<2>(),          plain<1>(),          swapped<4, 8, 1>(),
    swapped<4, 16, 1>(), swapped<4, 32, 1>(), swapped<2, 8, 2>(),  swapped<2, 16, 2>(),
    swapped<2, 32, 2>(), swapped<1, 8, 4>(),  swapped<1, 16, 4>(), swapped<1, 32, 2, true>(),
};

std::string describe(const ProductForm& form, const ProductPart& part, uint32_t row,
                     uint32_t column, float seen, float wanted) {
  char text[256];
  std::snprintf(text, sizeof text,
                "%s, %u panels, N %u, %u k tiles: token %u + %u, panel %u, column %u: %.9g, "
                "expected %.9g",
                form.tokens == 0 ? "plain" : "swapped", form.panels, form.tokens, part.k_tiles,
                part.first_row, row, part.first_panel, column, seen, wanted);
  return text;
}

class Products {
 public:
  bool run(Random& random, uint32_t rounds) {
    for (uint32_t round = 0; round < rounds; ++round) {
      const auto kind = static_cast<Operands>(round % static_cast<uint32_t>(Operands::kCount));
      const ProductCase test = make_case(random, 1 + round % kMostKTiles, kind);
      run_case(random, test);
    }
    bool good = twin_.finish();
    good &= equal_.finish();
    good &= !kHasTensorCore || exact_.finish();
    std::printf("products: at most %.3f of the bound\n", worst_);
    return good;
  }

 private:
  void run_case(Random& random, const ProductCase& test) {
    DeviceArray<std::byte> tokens(test.tokens);
    DeviceArray<std::byte> weights(test.weights);
    whole_.assign(size_t{kTokens} * kColTile, 0);
    exact_values_.resize(whole_.size());
    for (uint32_t i = 0; i < whole_.size(); ++i) {
      exact_values_[i] = exact_product(test, i / kColTile, i % kColTile);
    }
    for (const Form& form : kForms) {
      const bool is_plain = form.form.tokens == 0;
      const uint32_t most = is_plain ? kHalfRows : form.form.tokens;
      for (uint32_t half = 0; half < 2; ++half) {
        for (uint32_t panel = 0; panel < kPanelsPerColTile; panel += form.form.panels) {
          ProductPart part{test.k_tiles, half * most,      most,
                           panel,        form.form.panels, kNumConsumers * most};
          const bool is_whole = &form == kForms;
          if (!is_whole) {
            // Rows and a last panel may be missing.
            part.rows = 1 + random() % most;
            part.panels -= form.form.panels > 1 && random() % 2 == 0 ? 1 : 0;
          }
          check(test, form.form, part, form.run(part, tokens, weights), is_whole);
        }
      }
    }
  }

  void check(const ProductCase& test, const ProductForm& form, const ProductPart& part,
             const std::vector<float>& seen, bool is_whole) {
    const std::vector<float> wanted = twin_product(test, form, part);
    for (uint32_t row = 0; row < part.rows; ++row) {
      for (uint32_t column = 0; column < part.panels * kPanelCols; ++column) {
        const uint32_t token = part.first_row + row;
        const uint32_t output = part.first_panel * kPanelCols + column;
        const size_t at = token * kColTile + output;
        const float value = seen[row * kColTile + column];
        const Exact& exact = exact_values_[at];
        const auto text = [&](float other) {
          return describe(form, part, row, column, value, other);
        };
        const bool good = agrees(test, exact, value, wanted[row * kColTile + column]);
        twin_.check(good, good ? "" : text(wanted[row * kColTile + column]));
        if (const double bound = rounding_bound(test, exact); bound < 1 && std::isfinite(value)) {
          worst_ =
              std::max(worst_, std::fabs(double{value} - wanted[row * kColTile + column]) / bound);
        }
        if (!is_whole) {
          const bool same = same_bits(value, whole_[at]);
          equal_.check(same, same ? "" : text(whole_[at]));
        } else {
          whole_[at] = value;
          if (kHasTensorCore) {
            const float rule = tensor_core_product(test, token, output);
            exact_.check(same_bits(value, rule), text(rule));
          }
        }
      }
    }
  }

  std::vector<float> whole_;  // [128][256] by the first form
  std::vector<Exact> exact_values_;
  double worst_ = 0;
  Report twin_{"products, host machine"};
  Report equal_{"products, same bits in all forms"};
  Report exact_{"products, the tensor core's rule"};
};

}  // namespace
}  // namespace terrazzo::testing

int main(int argc, char** argv) {
  using namespace terrazzo::testing;
  require_gpu();
  try {
    Random random(argc > 1 ? static_cast<uint32_t>(std::atoi(argv[1])) : 1);
    const bool good = Products().run(random, argc > 2 ? std::atoi(argv[2]) : 28);
    std::printf("%s\n", good ? "PASS" : "FAIL");
    return good ? 0 : 1;
  } catch (const std::exception& error) {
    std::printf("FAIL %s\n", error.what());
    return 1;
  }
}
