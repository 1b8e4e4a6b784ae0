// Each instruction on the GPU against its twin on the host machine: the same random heap, the same
// instructions of one kind, then every buffer of the two heaps.
//
// test_instructions [seed] [number of models] [opcode name]
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "host/model.hpp"
#include "host/traffic.hpp"
#include "lower/lower.hpp"
#include "machine/cuda/cuda_machine.hpp"
#include "machine/host/host_machine.hpp"
#include "require_gpu.hpp"

namespace terrazzo {
namespace {

using testing::Random;

constexpr double kTolerance =
    6e-3;  // relative Frobenius: operands and results are bf16 (2^-9 each)

bool is_fp32(Buffer buffer) {
  return buffer == Buffer::kSumSqX || buffer == Buffer::kSumSqX1 || buffer == Buffer::kSplits ||
         buffer == Buffer::kLogits || buffer == Buffer::kCandidates || buffer == Buffer::kSampled;
}

/// Plausible values everywhere: bf16 in [-1, 1), sums of squares around 20.
void fill_heap(std::vector<std::byte>& heap, const HeapLayout& layout, Random& random) {
  for (uint32_t b = 0; b < kNumBuffers; ++b) {
    const auto buffer = static_cast<Buffer>(b);
    std::byte* const data = heap.data() + layout.at(buffer);
    const uint64_t bytes = layout.size(buffer);
    if (buffer == Buffer::kZeros || buffer == Buffer::kCounters || buffer == Buffer::kSampled) {
      std::memset(data, 0, bytes);
    } else if (is_fp32(buffer)) {
      for (uint64_t at = 0; at < bytes; at += sizeof(float)) {
        const float value = 10.0F + static_cast<float>(random.engine()() % 1000) * 0.02F;
        std::memcpy(data + at, &value, sizeof(value));
      }
    } else {
      for (uint64_t at = 0; at < bytes; at += sizeof(bf16)) {
        const bf16 value =
            to_bf16(static_cast<float>(static_cast<int32_t>(random.engine()())) * 0x1p-31F);
        std::memcpy(data + at, &value, sizeof(value));
      }
    }
  }
}

/// Only the instructions of one kind, in one layer, which wait for nothing; then the end of the
/// step.
LoweredStep only(const LoweredStep& step, Opcode opcode) {
  LoweredStep out = step;
  for (GpuProgram& gpu : out.gpus) {
    for (auto& segment : gpu.segments) {
      std::erase_if(segment, [&](const Instruction& i) {
        return i.opcode != opcode && i.opcode != Opcode::kStepEnd;
      });
      for (Instruction& instruction : segment) {
        for (Wait& wait : instruction.waits) {
          wait.count = 0;
        }
      }
    }
  }
  return out;
}

size_t count(const LoweredStep& step, Opcode opcode) {
  size_t total = 0;
  for (const auto& segment : step.gpus[0].segments) {
    total += static_cast<size_t>(std::count_if(
        segment.begin(), segment.end(), [&](const Instruction& i) { return i.opcode == opcode; }));
  }
  return total;
}

struct Difference {
  double error = 0;  // relative Frobenius of what changed on either machine
  uint64_t changed = 0;
  uint64_t stray = 0;  // elements that one machine changed and the other did not
  uint64_t unequal = 0;
};

double value_at(const std::byte* data, bool fp32) {
  if (fp32) {
    float value = 0;
    std::memcpy(&value, data, sizeof(value));
    return value;
  }
  bf16 value{};
  std::memcpy(&value, data, sizeof(value));
  return to_float(value);
}

/// `counts(index)` tells which elements mean something.
template <class Counts>
Difference compare(const std::byte* before, const std::byte* host, const std::byte* gpu,
                   uint64_t bytes, bool fp32, Counts counts) {
  Difference out;
  double error = 0;
  double norm = 0;
  const uint64_t size = fp32 ? sizeof(float) : sizeof(bf16);
  for (uint64_t at = 0; at < bytes; at += size) {
    const bool host_wrote = std::memcmp(before + at, host + at, size) != 0;
    const bool gpu_wrote = std::memcmp(before + at, gpu + at, size) != 0;
    if ((!host_wrote && !gpu_wrote) || !counts(at / size)) {
      continue;
    }
    const double h = value_at(host + at, fp32);
    const double g = value_at(gpu + at, fp32);
    const double d = h == g ? 0 : h - g;
    ++out.changed;
    out.unequal += d != 0 ? 1 : 0;
    error += d * d;
    norm += h * h;
    // A result may be equal to what was there before; far from it on the other machine is a stray
    // write.
    out.stray += host_wrote != gpu_wrote && !(d * d < 0.01 * (1 + h * h)) ? 1 : 0;
  }
  out.error = norm > 0 ? std::sqrt(error / norm) : std::sqrt(error);
  return out;
}

/// Number of failures.
int test_opcode(const LoweredStep& whole, Opcode opcode, const testing::TestModel& model,
                const StepLimits& limits, Random& random) {
  const LoweredStep step = only(whole, opcode);
  const size_t instructions = count(step, opcode);
  if (instructions == 0) {
    return 0;
  }
  const ModelShape& shape = model.shape();
  host::HostMachine host(shape, limits, {.num_sms = 2});
  model.attach(host);
  cuda::CudaMachine gpu(shape, limits, {.watchdog_ns = 2'000'000'000});
  gpu.set_model(model.packed(0), model.tables());
  const HeapLayout& layout = host.layout();
  std::vector<std::byte> before(layout.total_bytes);
  fill_heap(before, layout, random);
  std::memcpy(host.heap(0), before.data(), before.size());
  gpu.write(static_cast<Buffer>(0), 0, before.data(), before.size());
  host.run(step);
  std::vector<std::byte> after(before.size());
  try {
    gpu.run(step);
  } catch (const std::exception& error) {
    std::printf("FAIL %-16s %s\n", opcode_name(opcode), error.what());
    return 1;
  }
  gpu.read(static_cast<Buffer>(0), 0, after.data(), after.size());
  int failures = 0;
  for (uint32_t b = 0; b < kNumBuffers; ++b) {
    const auto buffer = static_cast<Buffer>(b);
    if (buffer == Buffer::kCounters) {
      continue;
    }
    const uint64_t at = layout.at(buffer);
    // Sums of squares are stored in whole groups of 4 rows: those past the last row are padding.
    const bool sums = buffer == Buffer::kSumSqX || buffer == Buffer::kSumSqX1;
    const uint64_t block_elems = uint64_t{shape.hidden_panels()} * kRowBlock;
    const auto counts = [&](uint64_t index) {
      return !sums || index / block_elems * kRowBlock + index % kRowBlock < whole.rows.size();
    };
    const Difference seen = compare(before.data() + at, host.heap(0) + at, after.data() + at,
                                    layout.size(buffer), is_fp32(buffer), counts);
    if (seen.changed == 0) {
      continue;
    }
    const bool good = seen.error <= kTolerance && seen.stray == 0;
    failures += good ? 0 : 1;
    std::printf(
        "%s %-16s %4zu instructions, %-9s %8llu changed, %8llu unequal, %5llu stray, error %.2e\n",
        good ? "pass" : "FAIL", opcode_name(opcode), instructions, kBufferNames[b],
        static_cast<unsigned long long>(seen.changed),
        static_cast<unsigned long long>(seen.unequal), static_cast<unsigned long long>(seen.stray),
        seen.error);
  }
  return failures;
}

int run(uint64_t seed, int models, const std::string& only_name) {
  int failures = 0;
  for (int i = 0; i < models; ++i) {
    Random random(seed + static_cast<uint64_t>(i));
    ModelShape shape = testing::tiny_shape(random, 1);
    shape.num_layers = 1;  // without waits, the layers' instructions would overwrite each other
    const StepLimits limits{.max_rows = 320,
                            .max_sequences = 24,
                            .max_position = 640,
                            .num_pages = 96,
                            .max_logit_rows = 24,
                            .max_partials = 256};
    const testing::TestModel model(shape, limits.max_position, seed);
    testing::Traffic traffic(seed, shape, limits, 12, 200);
    LoweredStep step;
    for (int warm = 0; warm < 4; ++warm) {
      step = lower(traffic.next().request(), shape, limits, {});
    }
    std::printf("model %d: hidden %u inter %u heads %u:%u x %u vocab %u, %zu rows\n", i,
                shape.hidden, shape.intermediate, shape.num_heads, shape.num_kv_heads,
                shape.head_dim, shape.vocab, step.rows.size());
    for (uint32_t op = 0; op < kNumOpcodes; ++op) {
      const auto opcode = static_cast<Opcode>(op);
      // Random bytes are no candidates (ids, sums): test_sampling_tiles and test_step cover
      // `sample`.
      const bool skip = opcode == Opcode::kStepEnd || opcode == Opcode::kSample;
      if (!skip && (only_name.empty() || only_name == opcode_name(opcode))) {
        failures += test_opcode(step, opcode, model, limits, random);
      }
    }
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
  const int models = argc > 2 ? std::atoi(argv[2]) : 4;
  return terrazzo::run(seed, models, argc > 3 ? argv[3] : "");
}
