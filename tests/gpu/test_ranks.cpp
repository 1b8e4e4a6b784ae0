// Tensor parallelism on one GPU: 2, 4 and 8 virtual ranks in one launch against the host machine of
// the same degree; equal bits under random delays; signals that never come.
//
// test_ranks [seed] [repeats of each step] [degree, or 0 for all] [real]
// test_ranks illegal    loses the GPU; the first form runs this one as a process of its own
// With `real` every rank has a GPU of its own; degrees that there are no GPUs for are left out.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "host/model.hpp"
#include "host/traffic.hpp"
#include "lower/lower.hpp"
#include "lower/part_of_step.hpp"
#include "machine/cuda/cuda_machine.hpp"
#include "machine/host/host_machine.hpp"
#include "require_gpu.hpp"

namespace terrazzo {
namespace {

using testing::Random;
using Clock = std::chrono::steady_clock;
using Bytes = std::vector<std::byte>;

constexpr uint32_t kMostDelayNs = 20'000;
// As for one GPU (test_step.cpp): host and GPU round products differently.
constexpr double kTolerance = 1e-2;
// Of the tokens: where two candidates are as near as the roundings, either may win.
constexpr double kEqualTokens = 0.95;
constexpr uint64_t kFaultWatchdogNs = 100'000'000;
constexpr double kMostFaultSeconds = 2.0;

constexpr StepLimits kLimits{.max_rows = 1100,  // 9 row blocks: each of 8 ranks owns one
                             .max_sequences = 140,
                             .max_position = 640,
                             .num_pages = 320,
                             .max_logit_rows = 140,
                             .max_partials = 1024};

/// Consecutive steps: how many sequences run at least, and their longest prompt.
struct Load {
  const char* name;
  uint32_t sequences;
  int32_t longest_prompt;
  int steps;
  bool splits;
};
constexpr Load kLoads[] = {{"many", 132, 30, 3, false},  // two compact blocks
                           {"long", 5, 600, 10, true}};  // at last, parts of attention, merged

ModelShape shape_of(uint32_t head_dim, uint32_t world, Random& random) {
  return {.num_layers = 2,
          .hidden = random.pick({520U, 704U}),
          .intermediate = 1160,
          .num_heads = 8 * random.pick({1U, 2U, 4U}),
          .num_kv_heads = 8,
          .head_dim = head_dim,
          .vocab = 1100,
          .norm_eps = 1e-5F,
          .world = world,
          .split_tokens = 128,
          .o_sharded = random.chance(0.5)};
}

struct Results {
  Bytes residual;  // of one rank
  Bytes sampled;   // of all ranks, one after the other

  bool operator==(const Results&) const = default;
};

class Machine {
 public:
  Machine(const ModelShape& shape, const testing::TestModel& model, uint64_t watchdog_ns, bool real)
      : shape_(shape),
        machine_(shape, kLimits,
                 {.watchdog_ns = watchdog_ns, .ranks_per_gpu = real ? 1 : shape.world}) {
    for (uint32_t rank = 0; rank < shape.world; ++rank) {
      machine_.set_model(model.packed(rank), model.tables(), rank);
    }
  }

  cuda::CudaMachine& operator*() { return machine_; }
  cuda::CudaMachine* operator->() { return &machine_; }

  Results run(const LoweredStep& step, uint32_t rank) {
    machine_.run(step);
    return {residual(step, rank), sampled(step)};
  }
  Bytes residual(const LoweredStep& step, uint32_t rank) {
    return read(
        rank, Buffer::kX,
        ceil_div<uint64_t>(step.rows.size(), kRowBlock) * shape_.hidden_panels() * kPanelBytes);
  }
  Bytes sampled(const LoweredStep& step) {
    Bytes all;
    for (uint32_t rank = 0; rank < shape_.world; ++rank) {
      const Bytes own = read(rank, Buffer::kSampled, step.logit_rows.size() * sizeof(SampledToken));
      all.insert(all.end(), own.begin(), own.end());
    }
    return all;
  }
  Bytes read(uint32_t rank, Buffer buffer, uint64_t bytes) {
    Bytes out(bytes);
    machine_.read(buffer, 0, out.data(), bytes, rank);
    return out;
  }
  /// What placeholders of the next step stand for.
  void set_sampled(const Bytes& tokens) {
    for (uint32_t rank = 0; rank < shape_.world; ++rank) {
      machine_.write(Buffer::kSampled, 0, tokens.data(), tokens.size(), rank);
    }
  }

 private:
  ModelShape shape_;
  cuda::CudaMachine machine_;
};

double relative_error(const Bytes& seen, const Bytes& expected) {
  double error = 0;
  double norm = 0;
  for (size_t at = 0; at < seen.size(); at += sizeof(bf16)) {
    bf16 s{};
    bf16 e{};
    std::memcpy(&s, seen.data() + at, sizeof(s));
    std::memcpy(&e, expected.data() + at, sizeof(e));
    const double d = double{to_float(s)} - double{to_float(e)};
    error += d * d;
    norm += double{to_float(e)} * double{to_float(e)};
  }
  return std::sqrt(error / norm);
}

/// Share of the tokens that are the host's, on all ranks.
double equal_tokens(const Bytes& sampled, const host::HostMachine& host, size_t rows,
                    uint32_t world) {
  if (rows == 0) {
    return 1;
  }
  size_t same = 0;
  for (size_t i = 0; i < rows * world; ++i) {
    SampledToken token{};
    std::memcpy(&token, sampled.data() + i * sizeof(token), sizeof(token));
    same += token.token == host.sampled()[i % rows].token ? 1 : 0;
  }
  return static_cast<double>(same) / static_cast<double>(rows * world);
}

bool all_ranks_agree(Machine& gpu, const LoweredStep& step, const Results& first) {
  const size_t each = step.logit_rows.size() * sizeof(SampledToken);
  for (uint32_t rank = 1; rank < gpu->shape().world; ++rank) {
    if (gpu.residual(step, rank) != first.residual ||
        (each != 0 &&
         std::memcmp(first.sampled.data(), first.sampled.data() + rank * each, each) != 0)) {
      return false;
    }
  }
  return true;
}

/// Both go on from the GPU's caches and tokens: one different token would make all later ones
/// differ.
void copy_state(Machine& gpu, host::HostMachine& host) {
  for (uint32_t rank = 0; rank < gpu->shape().world; ++rank) {
    for (const Buffer buffer : {Buffer::kKvPool, Buffer::kSampled}) {
      gpu->read(buffer, 0, host.heap(rank) + host.layout().at(buffer), host.layout().size(buffer),
                rank);
    }
  }
}

int test_steps(const ModelShape& shape, const Load& load, uint64_t seed, int repeats, bool real) {
  const testing::TestModel model(shape, kLimits.max_position, seed);
  host::HostMachine host(shape, kLimits, {.num_sms = 2});
  model.attach(host);
  Machine gpu(shape, model, 3'000'000'000, real);
  testing::Traffic traffic(seed, shape, kLimits, load.sequences, load.longest_prompt);
  int failures = 0;
  uint64_t num_merges = 0;
  Bytes tokens(kLimits.max_sequences * sizeof(SampledToken));
  for (int i = 0; i < load.steps; ++i) {
    const testing::StepArrays arrays = traffic.next();
    const LoweredStep step = lower(arrays.request(), shape, kLimits, {gpu->num_sms()});
    gpu->set_delays({0, 0});
    const Results first = gpu.run(step, 0);
    host.run(step);
    Bytes expected(first.residual.size());
    std::memcpy(expected.data(), host.heap(0) + host.layout().at(Buffer::kX), expected.size());
    const double error = relative_error(first.residual, expected);
    const double same = equal_tokens(first.sampled, host, step.logit_rows.size(), shape.world);
    const bool agree = all_ranks_agree(gpu, step, first);
    int different = 0;
    const auto begin = Clock::now();
    for (int repeat = 0; repeat < repeats; ++repeat) {
      gpu->set_delays({static_cast<uint32_t>(seed) * 1000 + static_cast<uint32_t>(repeat),
                       repeat % 4 == 0 ? 0 : kMostDelayNs});
      gpu.set_sampled(tokens);
      const auto rank = static_cast<uint32_t>(repeat) % shape.world;
      different += gpu.run(step, rank) == first ? 0 : 1;
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    const bool good = error <= kTolerance && same >= kEqualTokens && agree && different == 0;
    failures += good ? 0 : 1;
    num_merges += count_instructions(step, 0)[static_cast<uint32_t>(Opcode::kAttendMerge)];
    std::printf(
        "%s %s step %d: %4zu rows, error %.2e, %.1f%% of %zu tokens, ranks %s, %d of %d "
        "repeats differ (%.1f ms each)\n",
        good ? "pass" : "FAIL", load.name, i, step.rows.size(), error, 100 * same,
        step.logit_rows.size(), agree ? "agree" : "DISAGREE", different, repeats,
        1e3 * seconds / std::max(repeats, 1));
    std::fflush(stdout);
    copy_state(gpu, host);
    const size_t each = first.sampled.size() / shape.world;
    std::copy_n(first.sampled.begin(), each, tokens.begin());
  }
  if (load.splits && num_merges == 0) {
    std::printf("FAIL %s steps split no attention\n", load.name);
    ++failures;
  }
  return failures;
}

/// Takes a signal to one rank away: of the first such instruction of the last rank that has one.
bool drop_signal(LoweredStep& step, Opcode opcode, uint32_t target) {
  for (size_t rank = step.gpus.size(); rank-- > 0;) {
    for (auto& segment : step.gpus[rank].segments) {
      for (Instruction& instruction : segment) {
        for (Signal& signal : instruction.signals) {
          if (instruction.opcode == opcode && signal.count > 0 &&
              (signal.gpus >> target & 1) != 0) {
            signal.gpus = static_cast<decltype(signal.gpus)>(signal.gpus & ~(1U << target));
            return true;
          }
        }
      }
    }
  }
  return false;
}

/// A rank that never tells that it has ended.
bool drop_end(LoweredStep& step) {
  auto& epilogue = step.gpus.back().segment(Segment::kEpilogue);
  const bool is_end = epilogue.back().opcode == Opcode::kStepEnd;
  epilogue.pop_back();
  return is_end;
}

int test_faults(const ModelShape& shape, uint64_t seed, bool real) {
  const testing::TestModel model(shape, kLimits.max_position, seed);
  Machine gpu(shape, model, kFaultWatchdogNs, real);
  testing::Traffic traffic(seed, shape, kLimits, 40, 300);
  const testing::StepArrays arrays = traffic.next();
  const LoweredStep step = lower(arrays.request(), shape, kLimits, {gpu->num_sms()});
  const Results expected = gpu.run(step, 0);
  int failures = 0;
  for (uint32_t victim = 0; victim < kNumOpcodes; ++victim) {
    const auto opcode = static_cast<Opcode>(victim);
    const uint32_t target = victim % shape.world;
    LoweredStep broken = step;
    const bool is_end = opcode == Opcode::kStepEnd;
    if (!(is_end ? drop_end(broken) : drop_signal(broken, opcode, target))) {
      std::printf("     no signal of %s to rank %u\n", opcode_name(opcode), target);
      continue;
    }
    std::string report = "the step came to its end";
    bool good = false;
    const auto begin = Clock::now();
    try {
      gpu->run(broken);
    } catch (const cuda::WatchdogError& error) {
      report = error.what();
      const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      good = report.starts_with("[watchdog] gpu ") && seconds < kMostFaultSeconds &&
             seconds >= 1e-9 * static_cast<double>(kFaultWatchdogNs);
      report += ", after " + std::to_string(seconds) + " s";
    }
    const bool right = gpu.run(step, target) == expected;
    good = good && right;
    failures += good ? 0 : 1;
    std::printf("%s no signal of %s to rank %u: %s%s\n", good ? "pass" : "FAIL",
                opcode_name(opcode), target, report.c_str(),
                right ? "" : "; THE NEXT STEP IS WRONG");
    std::fflush(stdout);
  }
  return failures;
}

/// An instruction of one rank reads far behind its heap. Ends with 0 if the errors say all.
int run_illegal() {
  Random random(1);
  const ModelShape shape = shape_of(64, 4, random);
  const testing::TestModel model(shape, kLimits.max_position, 1);
  Machine gpu(shape, model, 1'000'000'000, false);
  testing::Traffic traffic(1, shape, kLimits, 40, 300);
  const testing::StepArrays arrays = traffic.next();
  LoweredStep step = lower(arrays.request(), shape, kLimits, {gpu->num_sms()});
  gpu->run(step);
  for (Instruction& instruction : step.gpus[2].segment(Segment::kBody)) {
    if (instruction.opcode == Opcode::kGateUpSilu) {
      instruction.args.gemm.row_block = 1U << 24;
    }
  }
  const auto error_of = [&] {
    const auto begin = Clock::now();
    try {
      gpu->run(step);
    } catch (const MachineError& error) {
      std::printf("%s\nafter %.3f s\n", error.what(),
                  std::chrono::duration<double>(Clock::now() - begin).count());
      return std::string(error.what());
    }
    return std::string();
  };
  const std::string first = error_of();
  const std::string second = error_of();
  const bool good = first.starts_with("gpu 0: [cuda] ") &&
                    first.find("start the process again; claimed last:") != std::string::npos &&
                    first.find("gpu 2 sm ") != std::string::npos &&
                    first.find(": gate_up_silu (layer 0, position ") != std::string::npos &&
                    second.find("start the process again") != std::string::npos;
  std::fflush(stdout);
  std::_Exit(good ? 0 : 1);  // nothing of the GPU can be given back in order
}

/// In a process of its own, which loses its GPU.
int test_illegal(const std::string& program) {
  const int status = std::system((program + " illegal > /dev/null").c_str());
  std::printf("%s an illegal access in a process of its own\n", status == 0 ? "pass" : "FAIL");
  return status == 0 ? 0 : 1;
}

int run(int failures, uint64_t seed, int repeats, uint32_t only_world, bool real) {
  int devices = 1;
  cuda::check_cuda(cudaGetDeviceCount(&devices));
  for (const uint32_t world : {2U, 4U, 8U}) {
    if (only_world != 0 && only_world != world) {
      continue;
    }
    if (real && static_cast<int>(world) > devices) {
      std::printf("%u ranks: there are %d GPUs\n", world, devices);
      continue;
    }
    for (const uint32_t head_dim : {64U, 128U}) {
      Random random(seed + world + head_dim);
      const ModelShape shape = shape_of(head_dim, world, random);
      std::printf("%u ranks, head dimension %u, %u heads, hidden %u, O %s\n", world, head_dim,
                  shape.num_heads, shape.hidden, shape.o_sharded ? "sharded" : "replicated");
      for (const Load& load : kLoads) {
        failures += test_steps(shape, load, seed, repeats, real);
      }
      if ((world == 4) != (head_dim == 64)) {
        failures += test_faults(shape, seed, real);
      }
    }
  }
  std::printf("%s: %d failures\n", failures == 0 ? "PASS" : "FAIL", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace terrazzo

int main(int argc, char** argv) {
  terrazzo::testing::require_gpu();
  if (argc > 1 && std::string(argv[1]) == "illegal") {
    return terrazzo::run_illegal();
  }
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 30;
  const auto degree = argc > 3 ? static_cast<uint32_t>(std::strtoul(argv[3], nullptr, 10)) : 0;
  const bool real = argc > 4 && std::string(argv[4]) == "real";
  const int failures = real ? 0 : terrazzo::test_illegal(argv[0]);
  return terrazzo::run(failures, seed, repeats, degree, real);
}
