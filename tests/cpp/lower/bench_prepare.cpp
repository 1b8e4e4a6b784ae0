// What the host does before it can launch a step of an 8B model on one GPU: lowering into reused
// storage, then one run of bytes for the device. Prints a line for each batch.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <vector>

#include "lower/steps.hpp"
#include "machine/step_image.hpp"

namespace terrazzo {
namespace {

constexpr ModelShape kShape{.num_layers = 32,
                            .hidden = 4096,
                            .intermediate = 14336,
                            .num_heads = 32,
                            .num_kv_heads = 8,
                            .head_dim = 128,
                            .vocab = 128256,
                            .norm_eps = 1e-5F,
                            .world = 1,
                            .split_tokens = 2048};
constexpr StepLimits kLimits{.max_rows = 8192,
                             .max_sequences = 2048,
                             .max_position = 8192,
                             .num_pages = 20'000,
                             .max_logit_rows = 2048,
                             .max_partials = 16'384};
constexpr int kRepeats = 101;

/// CPU time, so that other work on the machine does not count.
double cpu_ms() { return 1e3 * static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + kRepeats / 2, values.end());
  return values[kRepeats / 2];
}

void measure(const char* name, const testing::StepArrays& arrays) {
  const StepRequest request = arrays.request();
  LoweredStep step;
  std::vector<std::byte> buffer;
  std::vector<double> lower_ms;
  std::vector<double> copy_ms;
  for (int i = 0; i < kRepeats; ++i) {
    const double start_ms = cpu_ms();
    lower_into(step, request, kShape, kLimits);
    const double lowered_ms = cpu_ms();
    const StepImage image(step, 0);
    if (buffer.size() < image.bytes()) {
      buffer.resize(image.bytes());
    }
    image.copy_to(buffer.data());
    lower_ms.push_back(lowered_ms - start_ms);
    copy_ms.push_back(cpu_ms() - lowered_ms);
  }
  const ProgramView view = step.view(0);
  std::printf("%s: lower %.3f ms, copy %.3f ms of %.2f MB, %u instructions a layer\n", name,
              median(lower_ms), median(copy_ms),
              static_cast<double>(StepImage(step, 0).bytes()) * 1e-6, view.body_size);
}

testing::StepArrays decode(int32_t sequences, int32_t context) {
  testing::StepArrays arrays;
  for (int32_t row = 0; row < sequences; ++row) {
    arrays.add_sequence(1, context);
    arrays.add_logit_row(row, 0.0F, 0, false);
  }
  arrays.assign_pages(testing::ascending_pages(kLimits.num_pages));
  return arrays;
}

testing::StepArrays prompts(int32_t sequences, int32_t tokens) {
  testing::StepArrays arrays;
  for (int32_t i = 0; i < sequences; ++i) {
    arrays.add_sequence(tokens, 0);
    arrays.add_logit_row((i + 1) * tokens - 1, 0.0F, 0, false);
  }
  arrays.assign_pages(testing::ascending_pages(kLimits.num_pages));
  return arrays;
}

}  // namespace
}  // namespace terrazzo

int main() {
  using namespace terrazzo;
  measure("1 sequence at 512", decode(1, 512));
  measure("64 sequences at 512", decode(64, 512));
  measure("512 sequences at 512", decode(512, 512));
  measure("2048 sequences at 192", decode(2048, 192));
  measure("8 prompts of 1024", prompts(8, 1024));
  return 0;
}
