// Several ranks on the fake runtime, on as many GPUs and on one: steps give what the host machine
// of the same degree gives, failures name the GPU and leave no trace, and what cannot work is
// refused.
#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <set>
#include <vector>

#include "check.hpp"
#include "cuda/model_pair.hpp"
#include "lower/lower.hpp"
#include "lower/share_of_step.hpp"
#include "machine/cuda/cuda.hpp"
#include "machine/cuda/cuda_machine.hpp"
#include "machine/cuda/step_results.hpp"

namespace terrazzo {
namespace {

using cuda::CudaModel;
using testing::equal;
using testing::Pair;
using testing::prompt;
using testing::StepArrays;

constexpr uint64_t kSeeds = 4;
constexpr int kSteps = 12;

/// Ranks, and how many of them share a GPU.
struct Placement {
  uint32_t world;
  uint32_t ranks_per_gpu;
};
constexpr Placement kPlacements[] = {{2, 2}, {4, 4}, {2, 1}, {4, 1}};

struct FakeGpus {
  explicit FakeGpus(int count, const std::set<std::pair<int, int>>& unreachable = {}) {
    testing::set_fake_devices(count, unreachable);
  }
  FakeGpus(const FakeGpus&) = delete;
  FakeGpus& operator=(const FakeGpus&) = delete;
  ~FakeGpus() { testing::set_fake_devices(1); }
};

TERRAZZO_TEST(ranks_give_what_the_host_gives) {
  const FakeGpus gpus(4);
  for (const auto& [world, ranks_per_gpu] : kPlacements) {
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
      testing::seed_fake_runtime(seed);
      Pair pair(seed, world, {.ranks_per_gpu = ranks_per_gpu});
      CHECK_EQ(testing::different_steps(pair, testing::kPairLimits, seed, kSteps, 12, 200), 0);
    }
  }
  CHECK_EQ(testing::early_launches(), 0u);
}

/// Rows of two compact blocks: each rank brings the logits of its own.
TERRAZZO_TEST(logits_come_from_their_owners) {
  const FakeGpus gpus(2);
  StepLimits limits = testing::kPairLimits;
  limits.max_sequences = limits.max_logit_rows = 160;
  limits.num_pages = 200;
  for (const uint32_t ranks_per_gpu : {1u, 2u}) {
    Pair pair(3, 2, {.ranks_per_gpu = ranks_per_gpu}, limits);
    CHECK_EQ(testing::different_steps(pair, limits, 3, 4, 150, 3), 0);
  }
}

TERRAZZO_TEST(runs_of_logits_are_whole_and_in_order) {
  testing::Random random(1);
  const ModelShape shape = testing::tiny_shape(random, 2);
  LoweredStep step;
  step.logit_rows.resize(3 * kRowBlock);
  uint32_t slots = 0;
  for (uint32_t row = 0; row < step.logit_rows.size(); ++row) {
    step.logit_rows[row].logits_slot = row % 3 == 0 ? slots++ : kNoLogits;
  }
  step.logit_rows[1].logits_slot = slots;  // for sampling only
  step.num_wanted_logits = slots;
  const std::vector<cuda::LogitRun> runs = cuda::wanted_logit_runs(step, shape);
  CHECK_EQ(runs.size(), 3u);
  uint32_t next = 0;
  for (uint32_t i = 0; i < runs.size(); ++i) {
    CHECK_EQ(runs[i].owner, i % 2);
    CHECK_EQ(runs[i].first_slot, next);
    next += runs[i].count;
  }
  CHECK_EQ(next, slots);
  CHECK_EQ(runs[0].count, ceil_div(kRowBlock, 3u));
}

TERRAZZO_TEST(a_rank_that_gives_up_stops_all_and_no_more) {
  const FakeGpus gpus(2);
  for (const uint32_t ranks_per_gpu : {1u, 2u}) {
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
      testing::seed_fake_runtime(seed);
      Pair pair(seed, 2, {.ranks_per_gpu = ranks_per_gpu});
      const StepArrays arrays = prompt(200);
      const StepOutputs expected = pair.host.step(arrays.request());
      const uint32_t aborted = testing::aborted_launches();
      CHECK(equal(pair.gpu.collect(pair.gpu.submit(arrays.request())), expected));
      testing::fail_next_launch();
      const uint64_t first = pair.gpu.submit(arrays.request());
      const uint64_t second = pair.gpu.submit(arrays.request());
      // Rank 1 told first, whatever the order of the reports.
      CHECK_THROWS(pair.gpu.collect(first), "[watchdog] gpu 1 sm 1 loader in embed");
      CHECK_EQ(testing::aborted_launches(), aborted + 1);
      CHECK_THROWS(pair.gpu.collect(second), "is not the oldest one in flight");
      for (int i = 0; i < 4; ++i) {
        CHECK(equal(pair.gpu.collect(pair.gpu.submit(arrays.request())), expected));
      }
    }
  }
}

/// The first GPU's kernel waits for one that never comes: it is stopped at once.
TERRAZZO_TEST(a_launch_that_one_gpu_refuses_stops_the_others) {
  const FakeGpus gpus(4);
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    testing::seed_fake_runtime(seed);
    Pair pair(seed, 4, {});
    const StepArrays arrays = prompt(200);
    const StepOutputs expected = pair.host.step(arrays.request());
    CHECK(equal(pair.gpu.collect(pair.gpu.submit(arrays.request())), expected));
    const uint64_t before = pair.gpu.submit(arrays.request());
    const int device = static_cast<int>(seed % 4);
    testing::refuse_next_launch(device);
    CHECK_THROWS(pair.gpu.submit(arrays.request()), "gpu " + std::to_string(device) + ": [cuda]");
    CHECK_THROWS(pair.gpu.collect(before), "is not the oldest one in flight");
    for (int i = 0; i < 4; ++i) {
      CHECK(equal(pair.gpu.collect(pair.gpu.submit(arrays.request())), expected));
    }
  }
}

TERRAZZO_TEST(all_gpus_reach_each_other) {
  const FakeGpus gpus(4);
  testing::Random random(1);
  const ModelShape shape = testing::tiny_shape(random, 4);
  const CudaModel first(shape, testing::kPairLimits, {});
  const CudaModel second(shape, testing::kPairLimits, {});  // finds peer access enabled
  for (int device = 0; device < 4; ++device) {
    for (int peer = 0; peer < 4; ++peer) {
      CHECK_EQ(testing::is_peer_enabled(device, peer), device != peer);
    }
  }
}

TERRAZZO_TEST(what_cannot_work_is_refused_with_a_reason) {
  testing::Random random(1);
  const ModelShape shape = testing::tiny_shape(random, 4);
  const StepLimits& limits = testing::kPairLimits;
  {
    const FakeGpus gpus(2);
    CHECK_THROWS(CudaModel(shape, limits, {}), "4 GPUs are wanted, the driver shows 2");
    CHECK_EQ(cuda::device_problem(2), "");
  }
  {
    const FakeGpus gpus(4, {{3, 1}});
    CHECK_THROWS(CudaModel(shape, limits, {}), "GPU 3 cannot reach the memory of GPU 1");
    CHECK_EQ(cuda::device_problem(3), "");
  }
  const FakeGpus gpus(4);
  setenv("CUDA_LAUNCH_BLOCKING", "1", 1);
  CHECK_THROWS(CudaModel(shape, limits, {}), "CUDA_LAUNCH_BLOCKING is set");
  CHECK_EQ(CudaModel(shape, limits, {.ranks_per_gpu = 4}).num_sms(), 1u);  // one launch may wait
  unsetenv("CUDA_LAUNCH_BLOCKING");
  CHECK_EQ(CudaModel(shape, limits, {}).num_sms(), 4u);
  CHECK_THROWS(CudaModel(shape, limits, {.ranks_per_gpu = 3}),
               "expected ranks_per_gpu to divide the 4 ranks, got 3");
  CHECK_THROWS(CudaModel(shape, limits, {.ranks_per_gpu = 0}), "at least 1, got 0");
  CHECK_THROWS(CudaModel(shape, limits, {.num_sms = 2, .ranks_per_gpu = 4}),
               "expected at most 1 SMs, got 2");
  CHECK_THROWS(CudaModel(shape, limits, {.reserve_sms = 1, .ranks_per_gpu = 4}),
               "expected an SM for each of the 4 ranks of a GPU, it has 4");
  CHECK_THROWS(CudaModel(shape, limits, {.stream = 64}), "a stream belongs to one GPU");
}

TERRAZZO_TEST(a_lost_gpu_says_what_to_do) {
  CHECK_THROWS(cuda::check_cuda(cudaErrorIllegalAddress), "start the process again");
  CHECK(!cuda::loses_device(cudaErrorLaunchOutOfResources));
  const FakeGpus gpus(2);
  for (const bool both : {false, true}) {
    Pair pair(1, 2, {});
    const StepArrays arrays = prompt(100);
    const uint64_t number = pair.gpu.submit(arrays.request());
    testing::lose_fake_devices(both ? std::set{0, 1} : std::set{1});
    try {
      pair.gpu.collect(number);
      CHECK(false);
    } catch (const MachineError& error) {
      const std::string text = error.what();
      CHECK(text.starts_with("gpu 1: [cuda] "));  // of both, the one that is further behind
      CHECK(text.find(std::string("start the process again") +
                      (both ? "; gpu 0 too, further on in the step" : "") +
                      "; claimed last:\n  gpu 1 sm 0: qkv_rope_append (layer 0,") !=
            std::string::npos);
      CHECK(text.find("sm 1") == std::string::npos);  // claimed nothing
    }
    CHECK_THROWS(pair.gpu.collect(pair.gpu.submit(arrays.request())), "start the process again");
    testing::lose_fake_devices({});
  }
}

/// One GPU's share of a step comes to its end without its peers, and does all of its own work.
TERRAZZO_TEST(a_share_runs_alone) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    for (const uint32_t world : {2u, 8u}) {
      testing::Random random(seed);
      const ModelShape shape = testing::tiny_shape(random, world);
      cuda::CudaMachine machine(
          shape, testing::kPairLimits,
          {.watchdog_ns = 1'000'000'000, .trace_events = 1 << 20, .is_alone = true});
      const testing::TestModel model(shape, testing::kPairLimits.max_position, seed);
      machine.set_model(model.packed(0), model.tables());
      testing::Traffic traffic(seed, shape, testing::kPairLimits, 12, 200);
      for (int i = 0; i < 4; ++i) {
        const StepArrays arrays = traffic.next();
        LoweredStep step =
            lower(arrays.request(), shape, testing::kPairLimits, {machine.num_sms()});
        const uint64_t queue = step.view(0).queue_size();
        CHECK_THROWS(machine.upload(step), "the machine has 1");
        keep_share(step, 0);
        machine.run(step);
        std::set<uint32_t> positions;
        for (const TraceEvent& event : machine.events()) {
          positions.insert(event.position);
        }
        CHECK_EQ(uint64_t{positions.size()}, queue);
      }
    }
  }
}

TERRAZZO_TEST(every_rank_has_its_own_memory) {
  for (const uint32_t ranks_per_gpu : {1u, 2u}) {
    const FakeGpus gpus(2);
    const uint64_t before = testing::fake_device_bytes();
    {
      Pair pair(5, 2, {.ranks_per_gpu = ranks_per_gpu});
      const uint64_t used = testing::fake_device_bytes() - before;
      const uint64_t announced = 2 * (weight_bytes(pair.shape, testing::kPairLimits.max_position) +
                                      heap_layout(pair.shape, testing::kPairLimits).total_bytes);
      CHECK(used >= announced);
      CHECK(used < announced + (8u << 20));
    }
    CHECK_EQ(testing::fake_device_bytes(), before);
    CHECK_EQ(testing::fake_pinned_bytes(), 0u);
  }
}

TERRAZZO_TEST(events_and_times_are_of_all_ranks) {
  const FakeGpus gpus(2);
  for (const uint32_t ranks_per_gpu : {1u, 2u}) {
    Pair pair(7, 2, {.trace_events = 100'000, .ranks_per_gpu = ranks_per_gpu});
    const StepArrays arrays = prompt(100);
    CHECK_EQ(pair.gpu.time_step(arrays.request(), {}, {.repeats = 2}).size(), 2u);
    const LoweredStep step =
        lower(arrays.request(), pair.shape, testing::kPairLimits, {pair.gpu.num_sms()});
    pair.gpu.collect(pair.gpu.submit(arrays.request()));
    const std::vector<TraceEvent> events = pair.gpu.events();
    for (uint32_t rank = 0; rank < 2; ++rank) {
      std::set<uint32_t> positions;
      for (const TraceEvent& event : events) {
        if (event.gpu == rank) {
          positions.insert(event.position);
        }
      }
      CHECK_EQ(positions.size(), size_t{step.view(rank).queue_size()});
    }
    pair.gpu.fill_random(3);
    CHECK(pair.gpu.collect(pair.gpu.submit(arrays.request())).tokens[0] >= 0);
  }
}

}  // namespace
}  // namespace terrazzo
