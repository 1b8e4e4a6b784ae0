// How long it takes to build, and to verify, the programs of a 4,096-token step of a 70B model on
// eight GPUs, on one core: 2,048 decode rows at context 512 and two prompt chunks of 1,024 rows.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <vector>

#include "lower/steps.hpp"
#include "lower/verifier.hpp"

namespace terrazzo {
namespace {

constexpr ModelShape kShape{.num_layers = 80,
                            .hidden = 8192,
                            .intermediate = 28672,
                            .num_heads = 64,
                            .num_kv_heads = 8,
                            .head_dim = 128,
                            .vocab = 128256,
                            .norm_eps = 1e-5F,
                            .world = 8,
                            .split_tokens = 4096};
constexpr StepLimits kLimits{.max_rows = 4096,
                             .max_sequences = 2176,
                             .max_position = 8192,
                             .num_pages = 20000,
                             .max_logit_rows = 256,
                             .max_partials = 8192};
constexpr int32_t kDecodeContext = 512;
constexpr int32_t kChunkRows = 1024;
constexpr double kLimitMs = 1.0;  // for one GPU's program

testing::StepArrays step_arrays() {
  testing::StepArrays arrays;
  for (int32_t row = 0; row < 2048; ++row) {
    arrays.add_sequence(1, kDecodeContext);
    arrays.add_logit_row(row, 0.7F, 0, false);
  }
  arrays.add_sequence(kChunkRows, 0);
  arrays.add_sequence(kChunkRows, kChunkRows);
  arrays.assign_pages(testing::ascending_pages(kLimits.num_pages));
  return arrays;
}

/// CPU time, so that other work on the machine does not count.
double cpu_ms() { return 1e3 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

int run() {
  const testing::StepArrays arrays = step_arrays();
  const StepRequest request = arrays.request();
  LoweredStep step;
  double start_ms = cpu_ms();
  lower_into(step, request, kShape, kLimits);
  const double first_ms = cpu_ms() - start_ms;
  const auto repeat = [&](const LowerOptions& options) {
    std::vector<double> times_ms;
    for (int i = 0; i < 51; ++i) {
      start_ms = cpu_ms();
      lower_into(step, request, kShape, kLimits, options);
      times_ms.push_back(cpu_ms() - start_ms);
    }
    std::sort(times_ms.begin(), times_ms.end());
    return times_ms;
  };
  LowerOptions woven;
  woven.weave.split_block = 16;
  const double woven_ms = repeat(woven)[25];
  const std::vector<double> times_ms = repeat({});
  const double median_ms = times_ms[times_ms.size() / 2];
  const ProgramView view = step.view(0);
  std::printf("instructions of gpu 0: %u + 80 x %u + %u; counters a block: %u\n",
              view.prologue_size, view.body_size, view.epilogue_size, step.counters_per_block());
  std::printf("lower, 8 GPUs: first %.2f ms, then median %.2f ms (best %.2f, worst %.2f)\n",
              first_ms, median_ms, times_ms.front(), times_ms.back());
  std::printf("lower, a GPU: %.3f ms (first %.3f)\n", median_ms / kShape.world,
              first_ms / kShape.world);
  std::printf("woven, a GPU: %.3f ms\n", woven_ms / kShape.world);
  start_ms = cpu_ms();
  const auto problems = verify(step, kShape, kLimits);
  std::printf("verify, 3 layers: %.1f s, %zu problems\n", (cpu_ms() - start_ms) / 1000,
              problems.size());
  return problems.empty() && first_ms / kShape.world < kLimitMs &&
                 woven_ms / kShape.world < kLimitMs
             ? 0
             : 1;
}

}  // namespace
}  // namespace terrazzo

int main() { return terrazzo::run(); }
