// The host's time to submit a step of 2048 sequences of an 8B model: checks, lowering, the copy for
// the device, parameters. The runtime is a still one, so that calls of CUDA and the driver are not
// in it. Prints CPU times: with all in the caches, and where other work had them between steps, as
// when the host waits for a device.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <vector>

#include "lower/steps.hpp"
#include "machine/cuda/cuda_model.hpp"

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
constexpr int32_t kSequences = 2048;
constexpr int32_t kContext = 192;  // with the step's token
constexpr StepLimits kLimits{.max_rows = kSequences,
                             .max_sequences = kSequences,
                             .max_position = 1024,
                             .num_pages = 3 * kSequences,
                             .max_logit_rows = 8,
                             .max_partials = 16'384};
constexpr int kRepeats = 201;
constexpr int kWarmUp = 8;
constexpr size_t kSweptBytes = 96 << 20;

double cpu_ms() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return 1e3 * static_cast<double>(now.tv_sec) + 1e-6 * static_cast<double>(now.tv_nsec);
}

/// Pages are scattered over the pool.
testing::StepArrays decode() {
  testing::StepArrays arrays;
  for (int32_t row = 0; row < kSequences; ++row) {
    arrays.add_sequence(1, kContext - 1);
    arrays.add_logit_row(row, 0.0F, 0, false);
  }
  auto pages = testing::ascending_pages(kLimits.num_pages);
  testing::Random random(7);
  std::shuffle(pages.begin(), pages.end(), random.engine());
  arrays.assign_pages(pages);
  return arrays;
}

void measure(cuda::CudaModel& model, const StepRequest& request, const char* name, size_t swept) {
  std::vector<char> others(swept);
  std::vector<double> times_ms;
  for (int i = 0; i < kRepeats; ++i) {
    for (size_t at = 0; at < others.size(); at += 64) {
      ++others[at];
    }
    const double begin_ms = cpu_ms();
    const uint64_t number = model.submit(request);
    if (i >= kWarmUp) {
      times_ms.push_back(cpu_ms() - begin_ms);
    }
    model.collect(number);
  }
  std::sort(times_ms.begin(), times_ms.end());
  std::printf("%s: submit %.3f ms (best %.3f)\n", name, times_ms[times_ms.size() / 2], times_ms[0]);
}

}  // namespace
}  // namespace terrazzo

int main() {
  using namespace terrazzo;
  const testing::StepArrays arrays = decode();
  cuda::CudaModel model(kShape, kLimits, {});
  model.fill_random(1);
  measure(model, arrays.request(), "in the caches", 0);
  measure(model, arrays.request(), "after other work", kSweptBytes);
  return 0;
}
