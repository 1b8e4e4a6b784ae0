// How long it takes to simulate a layer of a 70B model, and a whole step, on one core.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <vector>

#include "lower/steps.hpp"
#include "simulate/device.hpp"
#include "simulate/simulator.hpp"

namespace terrazzo {
namespace {

constexpr StepLimits kLimits{.max_rows = 4096,
                             .max_sequences = 4096,
                             .max_position = 8192,
                             .num_pages = 60000,
                             .max_logit_rows = 256,
                             .max_partials = 8192};

ModelShape shape_of(uint32_t world) {
  return {.num_layers = 80,
          .hidden = 8192,
          .intermediate = 28672,
          .num_heads = 64,
          .num_kv_heads = 8,
          .head_dim = 128,
          .vocab = 128256,
          .norm_eps = 1e-5F,
          .world = world,
          .split_tokens = 4096};
}

testing::StepArrays step_arrays(int32_t rows, int32_t context) {
  testing::StepArrays arrays;
  for (int32_t row = 0; row < rows; ++row) {
    arrays.add_sequence(1, context);
    arrays.add_logit_row(row, 0.7F, 0, false);
  }
  arrays.assign_pages(testing::ascending_pages(kLimits.num_pages));
  return arrays;
}

double cpu_ms() { return 1e3 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

void measure(uint32_t world, int32_t rows, uint32_t layers, int repeats) {
  const ModelShape shape = shape_of(world);
  const testing::StepArrays arrays = step_arrays(rows, 512);
  const LoweredStep step = lower(arrays.request(), shape, kLimits, {});
  const CostModel model = testing::large_device();
  SimResult result;
  std::vector<double> times_ms;
  for (int i = 0; i < repeats; ++i) {
    const double start_ms = cpu_ms();
    result = simulate(step, shape, model, {.layers = layers});
    times_ms.push_back(cpu_ms() - start_ms);
  }
  std::sort(times_ms.begin(), times_ms.end());
  const double count =
      step.view(0).prologue_size + layers * step.view(0).body_size + step.view(0).epilogue_size;
  const double median_ms = times_ms[times_ms.size() / 2];
  std::printf(
      "%u GPUs, %d rows, %u layers: %.0f instructions a GPU, step %.3f ms; simulated in %.2f ms, "
      "%.0f ns an instruction\n",
      world, rows, layers, count, result.step_ns * 1e-6, median_ms,
      1e6 * median_ms / (count * world));
}

int run() {
  measure(8, 2048, 1, 11);
  measure(8, 2048, 2, 11);
  measure(8, 2048, 80, 1);
  measure(1, 2048, 1, 11);
  measure(1, 2048, 2, 11);
  measure(1, 64, 80, 3);
  return 0;
}

}  // namespace
}  // namespace terrazzo

int main() { return terrazzo::run(); }
