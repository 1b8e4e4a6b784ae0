// A program that cannot come to its end is reported within the watchdog's limit, and the machine
// then gives the same bits as before.
//
// test_dropped_signal [seed]
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "host/model.hpp"
#include "machine/cuda/cuda_machine.hpp"
#include "require_gpu.hpp"

namespace terrazzo {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint64_t kWatchdogNs = 300'000'000;
constexpr double kMostSeconds = 3.0;  // the limit, and the end of all roles
constexpr StepLimits kLimits{.max_rows = 320,
                             .max_sequences = 24,
                             .max_position = 640,
                             .num_pages = 96,
                             .max_logit_rows = 24,
                             .max_partials = 256};
constexpr Opcode kVictims[] = {
    Opcode::kEmbed,         Opcode::kQkvRopeAppend, Opcode::kAttendPrefill, Opcode::kAttendDecode,
    Opcode::kOProjResidual, Opcode::kGateUpSilu,    Opcode::kDownResidual,  Opcode::kGatherNorm,
    Opcode::kLmHead,        Opcode::kSample};

/// Eight decode rows, which read whatever the pages hold, and a prompt.
testing::StepArrays step_arrays() {
  testing::StepArrays arrays;
  for (int32_t row = 0; row < 8; ++row) {
    arrays.add_sequence(1, 20 * row);
    arrays.add_logit_row(row, 0.0F, 0, false);
  }
  arrays.add_sequence(200, 0);
  arrays.add_logit_row(207, 0.0F, 0, true);
  arrays.assign_pages(testing::ascending_pages(kLimits.num_pages));
  return arrays;
}

/// Takes the signal of the first such instruction away.
bool drop_signal(LoweredStep& step, Opcode opcode) {
  for (auto& segment : step.gpus[0].segments) {
    for (Instruction& instruction : segment) {
      if (instruction.opcode == opcode && instruction.signals[0].count > 0) {
        instruction.signals[0] = {};
        return true;
      }
    }
  }
  return false;
}

std::vector<std::byte> results(cuda::CudaMachine& machine, const LoweredStep& step) {
  machine.run(step);
  const uint64_t residual = 2 * machine.shape().hidden_panels() * uint64_t{kPanelBytes};
  const uint64_t sampled = step.logit_rows.size() * sizeof(SampledToken);
  std::vector<std::byte> out(residual + sampled);
  machine.read(Buffer::kX, 0, out.data(), residual);
  machine.read(Buffer::kSampled, 0, out.data() + residual, sampled);
  return out;
}

int run(uint64_t seed) {
  testing::Random random(seed);
  const ModelShape shape = testing::tiny_shape(random, 1);
  const testing::TestModel model(shape, kLimits.max_position, seed);
  cuda::CudaMachine machine(shape, kLimits, {.watchdog_ns = kWatchdogNs});
  machine.set_model(model.packed(0), model.tables());
  const testing::StepArrays arrays = step_arrays();
  const LoweredStep step = lower(arrays.request(), shape, kLimits, {machine.num_sms()});
  const std::vector<std::byte> expected = results(machine, step);
  int failures = 0;
  for (const Opcode victim : kVictims) {
    LoweredStep broken = step;
    std::string report = "the step has no such signal";
    bool good = drop_signal(broken, victim);
    if (good) {
      const auto begin = Clock::now();
      try {
        machine.run(broken);
        report = "the step came to its end";
        good = false;
      } catch (const cuda::WatchdogError& error) {
        report = error.what();
        const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
        good = report.starts_with("[watchdog] gpu 0 sm ") &&
               seconds >= 1e-9 * static_cast<double>(kWatchdogNs) && seconds < kMostSeconds;
        report += ", after " + std::to_string(seconds) + " s";
      }
      good = good && results(machine, step) == expected;
    }
    failures += good ? 0 : 1;
    std::printf("%s without a signal of %s: %s\n", good ? "pass" : "FAIL", opcode_name(victim),
                report.c_str());
    std::fflush(stdout);
  }
  std::printf("%s: %d failures\n", failures == 0 ? "PASS" : "FAIL", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace terrazzo

int main(int argc, char** argv) {
  terrazzo::testing::require_gpu();
  return terrazzo::run(argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1);
}
