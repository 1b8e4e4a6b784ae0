// Many random steps on virtual ranks of one GPU, back to back and under random delays. Every step
// runs again at other times, cut into other units of work, and must leave the same bits; some are
// compared with the host machine; no step may hang and no memory may be lost.
//
// test_soak [seed] [steps] [degree, or 0 for all] [real] [small] [plant]
// real: every rank has a GPU of its own. small: models and steps for runs without a GPU.
// plant: a wrong byte and a leak in each machine; passes if all of them are found.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "lower/lower.hpp"
#include "require_gpu.hpp"
#include "soak_sessions.hpp"

namespace terrazzo {
namespace {

using testing::Outcome;
using testing::Random;
using testing::Session;
using testing::SessionPtr;
using testing::SoakMachine;
using testing::StepArrays;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kWatchdogNs = 5'000'000'000;
constexpr int kRunsOfSession = 4;
constexpr size_t kLiveSessions = 8;
constexpr size_t kStepsOfWarmUp = 12;
constexpr uint32_t kMostSms = 132;           // that units of work are cut for
constexpr int kMostPrinted = 5;              // failures of a kind
constexpr int64_t kHostSlack = 256 << 20;    // the allocator's and the sessions'
constexpr uint64_t kGranule = 2 << 20;       // of the GPU's memory
constexpr size_t kLeakBytes = 16 << 20;      // planted
constexpr uint8_t kBlanks[] = {0x3b, 0xff};  // no K or V: as bf16 0.003 and NaN, four alike

struct Options {
  uint64_t seed = 1;
  size_t steps = 10'000;
  uint32_t degree = 0;
  bool real = false;
  bool small = false;
  bool plant = false;
};

struct Config {
  uint32_t world;
  uint32_t head_dim;
  bool o_sharded;
};

ModelShape shape_of(const Config& config, bool small, Random& random) {
  ModelShape shape = testing::rank_shape(random, config.world, config.head_dim, small);
  shape.o_sharded = config.o_sharded;
  return shape;
}

/// Of all devices together.
int64_t free_device_bytes() {
  int devices = 0;
  cuda::check_cuda(cudaGetDeviceCount(&devices));
  int64_t sum = 0;
  for (int device = 0; device < devices; ++device) {
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    cuda::check_cuda(cudaSetDevice(device));
    cuda::check_cuda(cudaMemGetInfo(&free_bytes, &total_bytes));
    sum += static_cast<int64_t>(free_bytes);
  }
  return sum;
}

/// That are in use by this process, page-locked ones too.
int64_t host_bytes() {
  std::ifstream file("/proc/self/statm");
  int64_t total = 0;
  int64_t resident = 0;
  file >> total >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

class Soak {
 public:
  Soak(const Config& config, const Options& options, uint64_t seed)
      : options_(options),
        random_(seed),
        seed_(seed),
        limits_(testing::rank_limits(options.small)),
        shape_(shape_of(config, options.small, random_)),
        model_(shape_, limits_.max_position, seed),
        machine_(shape_, limits_, model_, kWatchdogNs, options.real) {}

  /// Number of failures.
  int run(size_t steps) {
    std::printf("%u ranks, head dimension %u, %u heads, hidden %u, O %s\n", shape_.world,
                shape_.head_dim, shape_.num_heads, shape_.hidden,
                shape_.o_sharded ? "sharded" : "replicated");
    const auto begin = Clock::now();
    try {
      prime();
      compare_with_host();
      soak(steps / 2, /*plant=*/false);  // most growth is over after this
      const int64_t device_before = free_device_bytes();
      const int64_t host_before = host_bytes();
      const uint64_t programs_before = program_bytes();
      soak(steps - steps / 2, options_.plant);
      check_memory(device_before - free_device_bytes(), host_bytes() - host_before,
                   program_bytes() - programs_before);
    } catch (const MachineError& error) {
      std::printf("FAIL after %zu steps: %s\n", num_collected_, error.what());
      ++failures_;
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    std::printf("%s %zu steps, %zu of them again, in %zu sessions; %zu to %zu rows; %.1f s\n",
                failures_ == 0 ? "pass" : "FAIL", num_collected_, num_again_, num_sessions_,
                least_rows_, most_rows_, seconds);
    std::fflush(stdout);
    return failures_;
  }
  bool found_wrong_bits() const { return num_wrong_ > 0; }
  bool found_leak() const { return leaks_; }

 private:
  struct Expected {
    SessionPtr session;
    size_t index;  // of the step in it
  };

  uint64_t program_bytes() {
    uint64_t bytes = 0;
    for (uint32_t device = 0; device < machine_->num_devices(); ++device) {
      bytes += machine_->program_bytes(device);
    }
    return bytes;
  }

  /// Logits and most programs find room after this.
  void prime() {
    machine_.clear_pages(kBlanks[0]);
    const StepArrays largest = testing::largest_step(limits_);
    const LoweredStep step = lower(largest.request(), shape_, limits_, {kMostSms});
    for (uint32_t i = 0; i < cuda::CudaMachine::kNumSlots; ++i) {
      machine_.submit(step);
      machine_.collect();
    }
  }

  SessionPtr new_session(const testing::Load& load, size_t length) {
    const size_t number = num_sessions_++;
    return testing::new_session(number, seed_ + 1000 * num_sessions_, shape_, limits_, load,
                                length);
  }

  void compare_with_host() {
    host::HostMachine host(shape_, limits_, {.num_sms = 2});
    model_.attach(host);
    const SessionPtr session =
        new_session(options_.small ? testing::kSmallLoads[1] : testing::kLoads[1], 4);
    machine_.clear_pages(kBlanks[0]);
    testing::TokenTally tokens;
    for (size_t i = 0; i < session->steps.size(); ++i) {
      const LoweredStep step =
          lower(session->steps[i].request(), shape_, limits_, {machine_->num_sms()});
      submit(session, i, step);
      collect();
      const testing::Results seen = (*machine_).results(step, 0);
      host.run(step);
      const auto compared = testing::compare_with_host(seen, step, host);
      failures_ += compared.is_good() ? 0 : 1;
      tokens.add(compared.tokens);
      std::printf("%s%s %.1e", i == 0 ? "errors against the host:" : ",",
                  compared.is_good() ? "" : " FAIL", compared.error);
      testing::copy_state(*machine_, host);
    }
    std::printf("; %s%zu of %zu tokens equal\n", tokens.is_good() ? "" : "FAIL ", tokens.equal,
                tokens.all);
    failures_ += tokens.is_good() ? 0 : 1;
    session->runs = 1;
    live_.push_back(session);
  }

  void soak(size_t steps, bool plant) {
    const size_t end = num_collected_ + steps;
    fault_at_ = plant ? num_collected_ + steps / 2 : ~size_t{0};
    while (num_submitted_ < end) {
      if (live_.size() < kLiveSessions) {
        live_.push_back(new_session(testing::random_load(random_, options_.small),
                                    static_cast<size_t>(random_.range(3, 10))));
      }
      const auto index =
          static_cast<size_t>(random_.range(0, static_cast<int32_t>(live_.size()) - 1));
      run_session(live_[index]);
      if (++live_[index]->runs == kRunsOfSession) {
        live_.erase(live_.begin() + static_cast<std::ptrdiff_t>(index));
      }
    }
    while (machine_.num_in_flight() > 0) {
      collect();
    }
  }

  void run_session(const SessionPtr& session) {
    machine_.clear_pages(random_.pick({kBlanks[0], kBlanks[1]}));
    for (size_t i = 0; i < session->steps.size(); ++i) {
      // Units of work are cut for other numbers of SMs: no bit may depend on it.
      const uint32_t sms = session->runs == 0 || random_.chance(0.5)
                               ? machine_->num_sms()
                               : static_cast<uint32_t>(random_.range(1, int{kMostSms}));
      const LoweredStep step = lower(session->steps[i].request(), shape_, limits_, {sms});
      machine_->set_delays({static_cast<uint32_t>(random_.engine()()),
                            random_.pick({0U, 0U, 0U, 1'000U, 4'000U, 20'000U})});
      if (random_.chance(0.1)) {
        std::this_thread::sleep_for(std::chrono::microseconds(random_.range(1, 300)));
      }
      if (machine_.num_in_flight() == machine_.most_in_flight()) {
        collect();
      }
      submit(session, i, step);
    }
  }

  void submit(const SessionPtr& session, size_t index, const LoweredStep& step) {
    const bool planted = num_submitted_ >= fault_at_ && session->runs > 0;
    if (planted) {
      fault_at_ = ~size_t{0};
      leaked_ = cuda::DeviceMemory(kLeakBytes);
    }
    machine_.submit(step, planted);
    expected_.push_back({session, index});
    ++num_submitted_;
    least_rows_ = std::min(least_rows_, step.rows.size());
    most_rows_ = std::max(most_rows_, step.rows.size());
  }

  /// The oldest step's outcome becomes what is expected of it, or must be it.
  void collect() {
    const Outcome seen = machine_.collect();
    const auto [session, index] = expected_.front();
    expected_.pop_front();
    ++num_collected_;
    if (!seen.do_ranks_agree()) {
      tell_wrong(*session, index, "the ranks disagree", seen, seen);
    }
    if (session->expected.size() == index) {
      session->expected.push_back(seen);
      return;
    }
    ++num_again_;
    if (seen != session->expected[index]) {
      tell_wrong(*session, index, "other bits than at first", seen, session->expected[index]);
    }
  }

  void tell_wrong(const Session& session, size_t index, const char* what, const Outcome& seen,
                  const Outcome& expected) {
    ++failures_;
    if (++num_wrong_ > kMostPrinted) {
      return;
    }
    std::printf("FAIL step %zu: %s, session %zu step %zu, run %d:", num_collected_, what,
                session.number, index, session.runs);
    for (uint32_t rank = 0; rank < shape_.world; ++rank) {
      for (uint32_t part = 0; part < testing::kNumRankParts; ++part) {
        if (seen.ranks[rank][part] != expected.ranks[rank][part]) {
          std::printf(" %s of rank %u;", testing::kRankPartNames[part], rank);
        }
      }
    }
    std::printf("%s\n", seen.logits == expected.logits ? "" : " logits");
    std::fflush(stdout);
  }

  /// The driver hands memory out in granules: programs that grew may have cost one more a place.
  void check_memory(int64_t device_grown, int64_t host_grown, uint64_t programs_grown) {
    const uint64_t slots = machine_->num_devices() * cuda::CudaMachine::kNumSlots;
    const uint64_t room = programs_grown == 0 ? 0 : programs_grown + slots * kGranule;
    leaks_ = device_grown > static_cast<int64_t>(room) || host_grown > kHostSlack;
    failures_ += leaks_ ? 1 : 0;
    std::printf(
        "%s memory grew by %lld bytes of the GPUs' (programs by %llu), %lld MB of the host's\n",
        leaks_ ? "FAIL" : "pass", static_cast<long long>(device_grown),
        static_cast<unsigned long long>(programs_grown), static_cast<long long>(host_grown >> 20));
  }

  Options options_;
  Random random_;
  uint64_t seed_;
  StepLimits limits_;
  ModelShape shape_;
  testing::TestModel model_;
  SoakMachine machine_;
  cuda::DeviceMemory leaked_;
  std::vector<SessionPtr> live_;
  std::deque<Expected> expected_;  // of the steps in flight
  size_t fault_at_ = ~size_t{0};
  size_t num_sessions_ = 0;
  size_t num_submitted_ = 0;
  size_t num_collected_ = 0;
  size_t num_again_ = 0;
  size_t least_rows_ = ~size_t{0};
  size_t most_rows_ = 0;
  int num_wrong_ = 0;
  int failures_ = 0;
  bool leaks_ = false;
};

std::vector<Config> configs_of(const Options& options) {
  int devices = 1;
  cuda::check_cuda(cudaGetDeviceCount(&devices));
  std::vector<Config> configs;
  for (const uint32_t world : {2U, 4U, 8U}) {
    if (options.degree != 0 && options.degree != world) {
      continue;
    }
    if (options.real && static_cast<int>(world) > devices) {
      std::printf("%u ranks: there are %d GPUs\n", world, devices);
      continue;
    }
    for (const uint32_t head_dim : {64U, 128U}) {
      configs.push_back({world, head_dim, false});
      configs.push_back({world, head_dim, true});
    }
  }
  return configs;
}

/// One machine; 1 if it failed, or if what was planted in it was not found.
int run_config(const Config& config, const Options& options, uint64_t seed, size_t steps) {
  Soak soak(config, options, seed);
  const int failures = soak.run(steps);
  if (options.plant) {
    const bool found = soak.found_wrong_bits() && soak.found_leak();
    std::printf("%s what was planted\n", found ? "found" : "MISSED");
    return found ? 0 : 1;
  }
  return failures == 0 ? 0 : 1;
}

int run(const Options& options) {
  int failures = 0;
  const auto begin = Clock::now();
  const std::vector<Config> configs = configs_of(options);
  if (configs.empty()) {
    std::printf("FAIL: nothing to run\n");
    return 1;
  }
  std::printf("warm-up\n");  // kernels are loaded, pools have their size
  Options quiet = options;
  quiet.plant = false;
  for (size_t i : {size_t{0}, configs.size() - 1}) {
    failures += run_config(configs[i], quiet, options.seed, kStepsOfWarmUp);
  }
  const int64_t before = free_device_bytes();
  for (size_t i = 0; i < configs.size(); ++i) {
    failures +=
        run_config(configs[i], options, options.seed + i, ceil_div(options.steps, configs.size()));
    const int64_t lost = before - free_device_bytes();
    if (lost != 0) {
      std::printf("FAIL %lld bytes of the GPU's memory did not come back\n",
                  static_cast<long long>(lost));
      ++failures;
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
  if (argc > 1) {
    options.seed = std::strtoull(argv[1], nullptr, 10);
  }
  if (argc > 2) {
    options.steps = std::strtoull(argv[2], nullptr, 10);
  }
  if (argc > 3) {
    options.degree = static_cast<uint32_t>(std::strtoul(argv[3], nullptr, 10));
  }
  for (int i = 4; i < argc; ++i) {
    const std::string word = argv[i];
    options.real |= word == "real";
    options.small |= word == "small";
    options.plant |= word == "plant";
  }
  terrazzo::testing::require_gpu(options.real ? 2 : 1);
  return terrazzo::run(options);
}
