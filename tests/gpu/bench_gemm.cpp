// GEMM instructions through the whole interpreter, and what an empty instruction costs.
//
// bench_gemm [ARGUMENT ...]   rows (a number), model=8B|70B/tp2|70B/tp8|70Bo, kind=<instruction>,
//                             layers=<n> (so many layers' instructions in one launch, each with its
//                             own weights), warm (the L2 is not swept before a launch), empty
// Prints TFLOP/s of the median launch; pair it with a library's figures of the same run.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "lower/part_of_step.hpp"
#include "machine/cuda/cuda_model.hpp"
#include "require_gpu.hpp"
#include "terrazzo/core/geometry.hpp"

namespace terrazzo {
namespace {

constexpr uint32_t kRepeats = 9;
constexpr uint32_t kSequenceRows = 512;
constexpr uint32_t kHeadDim = 128;

/// A model's sizes; shares of a 70B model run as plain models of their sizes.
struct Sizes {
  const char* name;
  uint32_t hidden, intermediate, num_heads, num_kv_heads;
  std::vector<Opcode> kinds;
};

const std::vector<Sizes>& all_sizes() {
  using enum Opcode;
  static const std::vector<Sizes> kSizes{
      {"8B", 4096, 14336, 32, 8, {kQkvRopeAppend, kOProjResidual, kGateUpSilu, kDownResidual}},
      {"70B/tp2", 8192, 14336, 32, 4, {kQkvRopeAppend, kGateUpSilu, kDownResidual}},
      {"70B/tp8", 8192, 3584, 8, 1, {kQkvRopeAppend, kGateUpSilu, kDownResidual}},
      {"70Bo", 8192, 64, 64, 8, {kOProjResidual}}};
  return kSizes;
}

struct Plan {
  std::vector<uint32_t> rows;
  std::string model, kind;
  uint32_t layers = 1;
  bool sweep = true;
  bool empty = false;
};

/// A step of one prompt after the other.
struct Prompts {
  std::vector<int32_t> tokens, lens, contexts, indptr{0}, pages;

  explicit Prompts(uint32_t rows) : tokens(rows, 1) {
    for (uint32_t left = rows; left > 0;) {
      const uint32_t take = std::min(left, kSequenceRows);
      lens.push_back(static_cast<int32_t>(take));
      contexts.push_back(0);
      for (uint32_t page = 0; page < ceil_div(take, kPageTokens); ++page) {
        pages.push_back(static_cast<int32_t>(pages.size()));
      }
      indptr.push_back(static_cast<int32_t>(pages.size()));
      left -= take;
    }
  }

  StepRequest request() const {
    return {tokens, lens, contexts, indptr, pages, {}, {}, {}, {}, {}, {}, {}};
  }
};

struct Product {
  double n, k;
};

Product product_of(const ModelShape& shape, Opcode opcode) {
  const double hidden = shape.hidden;
  switch (opcode) {
    case Opcode::kQkvRopeAppend:
      return {double(shape.qkv_panels()) * kPanelCols, hidden};
    case Opcode::kOProjResidual:
      return {hidden, double(shape.attention_panels()) * kPanelCols};
    case Opcode::kGateUpSilu:
      return {double(shape.gate_up_panels()) * kPanelCols, hidden};
    default:
      return {hidden, double(shape.intermediate)};
  }
}

double median(std::vector<float> times) {
  std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
  return times[times.size() / 2];
}

void time_products(const Sizes& sizes, const Plan& plan) {
  const uint32_t most = *std::max_element(plan.rows.begin(), plan.rows.end());
  const ModelShape shape{.num_layers = plan.layers,
                         .hidden = sizes.hidden,
                         .intermediate = sizes.intermediate,
                         .num_heads = sizes.num_heads,
                         .num_kv_heads = sizes.num_kv_heads,
                         .head_dim = kHeadDim,
                         .vocab = 256,
                         .norm_eps = 1e-5F,
                         .world = 1,
                         .split_tokens = 2048};
  const StepLimits limits{.max_rows = most,
                          .max_sequences = most / kSequenceRows + 1,
                          .max_position = 1024,
                          .num_pages = most / kPageTokens + 1,
                          .max_logit_rows = 0,
                          .max_partials = 0};
  cuda::CudaModel model(shape, limits, {});
  model.fill_random(1);
  for (const Opcode opcode : sizes.kinds) {
    if (!plan.kind.empty() && plan.kind != opcode_name(opcode)) {
      continue;
    }
    const Product product = product_of(shape, opcode);
    for (const uint32_t rows : plan.rows) {
      const Prompts prompts(rows);
      const double ms = median(model.time_step(prompts.request(), {&opcode, 1},
                                               {.repeats = kRepeats, .sweep_cache = plan.sweep}));
      const double us = ms * 1e3 / plan.layers;
      std::printf("%-8s %-16s %5u %6.0f %6.0f layers %u %s %9.1f us %6.1f TFLOP/s\n", sizes.name,
                  opcode_name(opcode), rows, product.n, product.k, plan.layers,
                  plan.sweep ? "swept" : "warm ", us,
                  2.0 * rows * product.n * product.k / us * 1e-6);
    }
  }
  std::fflush(stdout);
}

/// The longer program's time less the shorter one's: launch and end are in both.
void time_empty() {
  const ModelShape shape{.num_layers = 1,
                         .hidden = 256,
                         .intermediate = 256,
                         .num_heads = 2,
                         .num_kv_heads = 1,
                         .head_dim = kHeadDim,
                         .vocab = 256,
                         .norm_eps = 1e-5F,
                         .world = 1,
                         .split_tokens = 2048};
  cuda::CudaModel model(shape, {128, 8, 64, 8, 8, 8}, {});
  model.fill_random(1);
  constexpr uint32_t kFew = 64;
  constexpr uint32_t kMany = 512;
  const uint32_t sms = model.num_sms();
  const auto ms = [&](uint32_t each) {
    return median(model.time_empty(each * sms, {.repeats = kRepeats, .sweep_cache = false}));
  };
  std::printf("empty instruction: %.3f us an SM; a launch of one each: %.1f us\n",
              (ms(kMany) - ms(kFew)) * 1e3 / (kMany - kFew), ms(1) * 1e3);
}

}  // namespace
}  // namespace terrazzo

int main(int argc, char** argv) {
  terrazzo::testing::require_gpu();
  terrazzo::Plan plan;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    if (argument.starts_with("model=")) {
      plan.model = argument.substr(6);
    } else if (argument.starts_with("kind=")) {
      plan.kind = argument.substr(5);
    } else if (argument.starts_with("layers=")) {
      plan.layers = static_cast<uint32_t>(std::stoul(argument.substr(7)));
    } else if (argument == "warm") {
      plan.sweep = false;
    } else if (argument == "empty") {
      plan.empty = true;
    } else {
      plan.rows.push_back(static_cast<uint32_t>(std::stoul(argument)));
    }
  }
  if (plan.empty) {
    terrazzo::time_empty();
    return 0;
  }
  if (plan.rows.empty()) {
    plan.rows = {512, 1024, 2048, 4096, 8192};
  }
  for (const terrazzo::Sizes& sizes : terrazzo::all_sizes()) {
    if (plan.model.empty() || plan.model == sizes.name) {
      terrazzo::time_products(sizes, plan);
    }
  }
  return 0;
}
