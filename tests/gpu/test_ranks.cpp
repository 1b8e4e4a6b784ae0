// Tensor parallelism on one GPU: 2, 4 and 8 virtual ranks in one launch against the host machine of
// the same degree; equal bits under random delays; signals that never come.
//
// test_ranks [seed] [repeats of each step] [degree, or 0 for all] [real] [small]
// test_ranks illegal VICTIM [real]    loses a GPU; the first form runs this one in other processes
//
// real: every rank has a GPU of its own; degrees that there are no GPUs for are left out.
// small: tiny models, few steps and no faults, for runs without a GPU or under a sanitizer.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "host/traffic.hpp"
#include "lower/lower.hpp"
#include "lower/part_of_step.hpp"
#include "rank_machine.hpp"
#include "require_gpu.hpp"

namespace terrazzo {
namespace {

using testing::Bytes;
using testing::Random;
using testing::RankMachine;
using testing::Results;
using Clock = std::chrono::steady_clock;

constexpr uint32_t kMostDelayNs = 20'000;
constexpr uint64_t kWatchdogNs = 3'000'000'000;
constexpr uint64_t kSlowWatchdogNs =
    15'000'000'000;  // a sanitizer may take a hundred times as long
constexpr uint64_t kFaultWatchdogNs = 100'000'000;
constexpr double kMostFaultSeconds = 2.0;

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
constexpr Load kSmallLoads[] = {{"many", 20, 10, 2, false}, {"long", 2, 150, 3, false}};

struct Options {
  uint64_t seed = 1;
  int repeats = 30;
  uint32_t degree = 0;
  bool real = false;
  bool small = false;
};

bool all_ranks_agree(RankMachine& gpu, const LoweredStep& step, const Results& first) {
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

int test_steps(const ModelShape& shape, const Load& load, const Options& options) {
  const StepLimits limits = testing::rank_limits(options.small);
  const uint64_t seed = options.seed;
  const testing::TestModel model(shape, limits.max_position, seed);
  host::HostMachine host(shape, limits, {.num_sms = 2});
  model.attach(host);
  RankMachine gpu(shape, limits, model, options.small ? kSlowWatchdogNs : kWatchdogNs,
                  options.real);
  testing::Traffic traffic(seed, shape, limits, load.sequences, load.longest_prompt);
  int failures = 0;
  uint64_t num_merges = 0;
  testing::TokenTally equal_tokens;
  Bytes tokens(limits.max_sequences * sizeof(SampledToken));
  for (int i = 0; i < load.steps; ++i) {
    const testing::StepArrays arrays = traffic.next();
    const LoweredStep step = lower(arrays.request(), shape, limits, {gpu->num_sms()});
    gpu->set_delays({0, 0});
    const Results first = gpu.run(step, 0);
    host.run(step);
    const auto compared = testing::compare_with_host(first, step, host);
    const bool agree = all_ranks_agree(gpu, step, first);
    int different = 0;
    const auto begin = Clock::now();
    for (int repeat = 0; repeat < options.repeats; ++repeat) {
      gpu->set_delays({static_cast<uint32_t>(seed) * 1000 + static_cast<uint32_t>(repeat),
                       repeat % 4 == 0 ? 0 : kMostDelayNs});
      gpu.set_sampled(tokens);
      const auto rank = static_cast<uint32_t>(repeat) % shape.world;
      different += gpu.run(step, rank) == first ? 0 : 1;
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    equal_tokens.add(compared.tokens);
    const bool good = compared.is_good() && agree && different == 0;
    failures += good ? 0 : 1;
    num_merges += count_instructions(step, 0)[static_cast<uint32_t>(Opcode::kAttendMerge)];
    std::printf(
        "%s %s step %d: %4zu rows, error %.2e, %zu of %zu tokens equal, ranks %s, %d of %d "
        "repeats differ (%.1f ms each)\n",
        good ? "pass" : "FAIL", load.name, i, step.rows.size(), compared.error,
        compared.tokens.equal, compared.tokens.all, agree ? "agree" : "DISAGREE", different,
        options.repeats, 1e3 * seconds / std::max(options.repeats, 1));
    std::fflush(stdout);
    testing::copy_state(gpu, host);
    const size_t each = first.sampled.size() / shape.world;
    std::copy_n(first.sampled.begin(), each, tokens.begin());
  }
  if (!equal_tokens.is_good()) {
    std::printf("FAIL %s steps: %zu of %zu tokens equal the host's\n", load.name,
                equal_tokens.equal, equal_tokens.all);
    ++failures;
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

int test_faults(const ModelShape& shape, const Options& options) {
  const StepLimits limits = testing::rank_limits(options.small);
  const uint64_t seed = options.seed;
  const testing::TestModel model(shape, limits.max_position, seed);
  RankMachine gpu(shape, limits, model, kFaultWatchdogNs, options.real);
  testing::Traffic traffic(seed, shape, limits, 40, 300);
  const testing::StepArrays arrays = traffic.next();
  const LoweredStep step = lower(arrays.request(), shape, limits, {gpu->num_sms()});
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

/// An instruction of one rank reads far behind its heap. Ends with 0 if the errors say all, and the
/// other ranks did not wait for longer than the watchdog lets them.
int run_illegal(uint32_t victim, bool real) {
  constexpr uint64_t kLimitNs = 1'000'000'000;
  const uint32_t world = real ? 2 : 4;
  const std::string lost = "gpu " + std::to_string(real ? victim : 0) + ": [cuda] ";
  const std::string claimed = "gpu " + std::to_string(victim) + " sm ";
  Random random(1);
  const ModelShape shape = testing::rank_shape(random, world, 64, false);
  const StepLimits limits = testing::rank_limits(false);
  const testing::TestModel model(shape, limits.max_position, 1);
  RankMachine gpu(shape, limits, model, kLimitNs, real);
  testing::Traffic traffic(1, shape, limits, 40, 300);
  const testing::StepArrays arrays = traffic.next();
  LoweredStep step = lower(arrays.request(), shape, limits, {gpu->num_sms()});
  gpu->run(step);
  for (Instruction& instruction : step.gpus[victim].segment(Segment::kBody)) {
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
  const auto begin = Clock::now();
  const std::string first = error_of();
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  const std::string second = error_of();
  const bool good = seconds < 1e-9 * kLimitNs + kMostFaultSeconds && first.starts_with(lost) &&
                    first.find("start the process again") != std::string::npos &&
                    first.find("; claimed last:") != std::string::npos &&
                    first.find(claimed) != std::string::npos &&
                    first.find(": gate_up_silu (layer 0, position ") != std::string::npos &&
                    second.find("start the process again") != std::string::npos;
  std::fflush(stdout);
  std::_Exit(good ? 0 : 1);  // nothing of the GPU can be given back in order
}

/// In processes of their own, which lose their GPUs.
int test_illegal(const std::string& program, bool real) {
  int failures = 0;
  for (const char* const victim : {"0", "1"}) {
    const std::string command =
        program + " illegal " + victim + (real ? " real" : "") + " > /dev/null";
    const int status = std::system(command.c_str());
    std::printf("%s an illegal access of rank %s in a process of its own\n",
                status == 0 ? "pass" : "FAIL", victim);
    failures += status == 0 ? 0 : 1;
  }
  return failures;
}

int run(int failures, const Options& options) {
  int devices = 1;
  cuda::check_cuda(cudaGetDeviceCount(&devices));
  const auto begin = Clock::now();
  bool o_sharded = options.seed % 2 == 0;  // by turns: two seeds have all
  for (const uint32_t world : {2U, 4U, 8U}) {
    if (options.degree != 0 && options.degree != world) {
      continue;
    }
    if (options.real && static_cast<int>(world) > devices) {
      std::printf("%u ranks: there are %d GPUs\n", world, devices);
      continue;
    }
    for (const uint32_t head_dim : {64U, 128U}) {
      Random random(options.seed + world + head_dim);
      ModelShape shape = testing::rank_shape(random, world, head_dim, options.small);
      shape.o_sharded = o_sharded = !o_sharded;
      std::printf("%u ranks, head dimension %u, %u heads, hidden %u, O %s\n", world, head_dim,
                  shape.num_heads, shape.hidden, shape.o_sharded ? "sharded" : "replicated");
      for (const Load& load : options.small ? kSmallLoads : kLoads) {
        failures += test_steps(shape, load, options);
      }
      if (!options.small && (world == 4) != (head_dim == 64)) {
        failures += test_faults(shape, options);
      }
    }
  }
  std::printf("%s: %d failures, %.1f s\n", failures == 0 ? "PASS" : "FAIL", failures,
              std::chrono::duration<double>(Clock::now() - begin).count());
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace terrazzo

int main(int argc, char** argv) {
  terrazzo::Options options;
  for (int i = 2; i < argc; ++i) {
    const std::string word = argv[i];
    options.real |= word == "real";
    options.small |= word == "small";
  }
  terrazzo::testing::require_gpu(options.real ? 2 : 1);
  if (argc > 2 && std::string(argv[1]) == "illegal") {
    return terrazzo::run_illegal(static_cast<uint32_t>(std::atoi(argv[2])), options.real);
  }
  if (argc > 1) {
    options.seed = std::strtoull(argv[1], nullptr, 10);
  }
  if (argc > 2) {
    options.repeats = std::atoi(argv[2]);
  }
  if (argc > 3) {
    options.degree = static_cast<uint32_t>(std::strtoul(argv[3], nullptr, 10));
  }
  const bool loses_gpu = !options.small;
  return terrazzo::run(loses_gpu ? terrazzo::test_illegal(argv[0], options.real) : 0, options);
}
