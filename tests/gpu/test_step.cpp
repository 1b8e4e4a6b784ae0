// Whole steps on the GPU against the host machine: consecutive random steps of a small model, all
// instructions, all waits; then the same steps again, for equal bits.
//
// test_step [seed] [number of models] [seconds until a wait is given up]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "host/traffic.hpp"
#include "lower/lower.hpp"
#include "rank_machine.hpp"
#include "require_gpu.hpp"

namespace terrazzo {
namespace {

using testing::Random;

constexpr int kSteps = 6;

struct StepResult {
  testing::Bytes residual;
  std::vector<SampledToken> sampled;
};

StepResult run_gpu(cuda::CudaMachine& machine, const LoweredStep& step, uint64_t residual_bytes) {
  machine.run(step);
  StepResult out{testing::Bytes(residual_bytes), std::vector<SampledToken>(step.logit_rows.size())};
  machine.read(Buffer::kX, 0, out.residual.data(), residual_bytes);
  machine.read(Buffer::kSampled, 0, out.sampled.data(), out.sampled.size() * sizeof(SampledToken));
  return out;
}

bool equal_bits(const StepResult& a, const StepResult& b) {
  return a.residual == b.residual && std::memcmp(a.sampled.data(), b.sampled.data(),
                                                 a.sampled.size() * sizeof(SampledToken)) == 0;
}

int test_model(uint64_t seed, uint64_t watchdog_ns) {
  Random random(seed);
  const ModelShape shape = testing::tiny_shape(random, 1);
  const StepLimits limits{.max_rows = 320,
                          .max_sequences = 24,
                          .max_position = 640,
                          .num_pages = 96,
                          .max_logit_rows = 24,
                          .max_partials = 256};
  const testing::TestModel model(shape, limits.max_position, seed);
  host::HostMachine host(shape, limits, {.num_sms = 2});
  model.attach(host);
  std::vector<StepResult> first;
  int failures = 0;
  for (const uint32_t sms : {0U, 0U, 7U}) {
    cuda::CudaMachine gpu(shape, limits, {.num_sms = sms, .watchdog_ns = watchdog_ns});
    gpu.set_model(model.packed(0), model.tables());
    testing::Traffic traffic(seed, shape, limits, 12, 200);
    for (int i = 0; i < kSteps; ++i) {
      const testing::StepArrays arrays = traffic.next();
      const LoweredStep step = lower(arrays.request(), shape, limits, {gpu.num_sms()});
      const uint64_t bytes = uint64_t{ceil_div<uint64_t>(step.rows.size(), kRowBlock)} *
                             shape.hidden_panels() * kPanelBytes;
      StepResult seen;
      try {
        seen = run_gpu(gpu, step, bytes);
      } catch (const std::exception& error) {
        std::printf("FAIL step %d on %u SMs: %s\n", i, gpu.num_sms(), error.what());
        return failures + 1;
      }
      if (static_cast<int>(first.size()) > i) {
        const bool same = equal_bits(seen, first[static_cast<size_t>(i)]);
        failures += same ? 0 : 1;
        std::printf("%s step %d again on %u SMs: %s bits\n", same ? "pass" : "FAIL", i,
                    gpu.num_sms(), same ? "equal" : "different");
        continue;
      }
      host.run(step);
      testing::Bytes expected(bytes);
      std::memcpy(expected.data(), host.heap(0) + host.layout().at(Buffer::kX), bytes);
      const double error = testing::relative_error(seen.residual, expected);
      size_t same_tokens = 0;
      for (size_t row = 0; row < seen.sampled.size(); ++row) {
        same_tokens += seen.sampled[row].token == host.sampled()[row].token ? 1 : 0;
      }
      const bool good = error <= testing::kResidualTolerance;
      failures += good ? 0 : 1;
      std::printf("%s step %d: %3zu rows, error %.2e, %zu of %zu tokens as on the host\n",
                  good ? "pass" : "FAIL", i, step.rows.size(), error, same_tokens,
                  seen.sampled.size());
      first.push_back(std::move(seen));
      // Both go on from the GPU's caches and tokens, or one different token would make all later
      // ones differ.
      gpu.read(Buffer::kKvPool, 0, host.heap(0) + host.layout().at(Buffer::kKvPool),
               host.layout().size(Buffer::kKvPool));
      gpu.read(Buffer::kSampled, 0, host.heap(0) + host.layout().at(Buffer::kSampled),
               host.layout().size(Buffer::kSampled));
    }
  }
  return failures;
}

int run(uint64_t seed, int models, uint64_t watchdog_ns) {
  int failures = 0;
  for (int i = 0; i < models; ++i) {
    std::printf("model %d\n", i);
    failures += test_model(seed + static_cast<uint64_t>(i), watchdog_ns);
    std::fflush(stdout);
  }
  std::printf("%s: %d failures\n", failures == 0 ? "PASS" : "FAIL", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace terrazzo

int main(int argc, char** argv) {
  terrazzo::testing::require_gpu();
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  const uint64_t seconds = argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 3;
  return terrazzo::run(seed, argc > 2 ? std::atoi(argv[2]) : 3, seconds * 1'000'000'000);
}
