// The CUDA model's host code on a runtime whose streams are late: steps in flight give what the
// host machine gives, a failed launch leaves no trace, and memory is what was promised.
#include <algorithm>
#include <cmath>
#include <vector>

#include "check.hpp"
#include "cuda/model_pair.hpp"
#include "lower/lower.hpp"
#include "machine/machine_error.hpp"

namespace terrazzo {
namespace {

using cuda::CudaModel;
using host::HostModel;
using testing::equal;
using testing::Pair;
using testing::prompt;
using testing::Random;
using testing::StepArrays;

constexpr StepLimits kLimits = testing::kPairLimits;
constexpr uint64_t kSeeds = 12;
constexpr int kSteps = 30;

TERRAZZO_TEST(steps_in_flight_give_what_the_host_gives) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    testing::seed_fake_runtime(seed);
    Pair pair(seed);
    CHECK_EQ(testing::different_steps(pair, kLimits, seed, kSteps, 12, 200), 0);
  }
}

TERRAZZO_TEST(a_failed_launch_voids_what_follows_and_no_more) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    testing::seed_fake_runtime(seed);
    Pair pair(seed);
    const StepArrays arrays = prompt(100);
    const StepOutputs expected = pair.host.step(arrays.request());
    StepArrays next = prompt(1);
    next.token_ids[0] = -1;
    const uint32_t aborted = testing::aborted_launches();
    CHECK(equal(pair.gpu.collect(pair.gpu.submit(arrays.request())), expected));
    testing::fail_next_launch();
    const uint64_t first = pair.gpu.submit(arrays.request());
    const uint64_t second = pair.gpu.submit(next.request());
    CHECK_THROWS(pair.gpu.collect(first),
                 "[watchdog] gpu 0 sm 1 loader in embed (layer -1, position 0) waits for a "
                 "counter 64 (KV[0] of block 0): seen 0, wanted 4");
    CHECK_EQ(testing::aborted_launches(), aborted + 1);
    CHECK_THROWS(pair.gpu.collect(second), "is not the oldest one in flight");
    CHECK_THROWS(pair.gpu.submit(next.request()), "but it sampled 0 rows");
    for (int i = 0; i < 4; ++i) {
      CHECK(equal(pair.gpu.collect(pair.gpu.submit(arrays.request())), expected));
    }
  }
}

/// The step before a failed one has its results, though it is collected after the failure.
TERRAZZO_TEST(a_failed_launch_does_not_take_the_one_before_with_it) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    testing::seed_fake_runtime(seed);
    Pair pair(seed);
    const StepArrays arrays = prompt(70);
    const StepOutputs expected = pair.host.step(arrays.request());
    const uint64_t first = pair.gpu.submit(arrays.request());
    pair.gpu.events();  // waits: the first has ended
    testing::fail_next_launch();
    const uint64_t second = pair.gpu.submit(arrays.request());
    pair.gpu.events();
    CHECK(equal(pair.gpu.collect(first), expected));
    CHECK_THROWS(pair.gpu.collect(second), "[watchdog]");
    CHECK(equal(pair.gpu.collect(pair.gpu.submit(arrays.request())), expected));
  }
}

TERRAZZO_TEST(a_refused_step_queues_nothing) {
  Pair pair(3);
  const StepArrays arrays = prompt(70);
  const StepOutputs expected = pair.host.step(arrays.request());
  StepArrays bad = prompt(70);
  bad.page_ids[0] = static_cast<int32_t>(kLimits.num_pages);
  CHECK_THROWS(pair.gpu.submit(bad.request()), "page_ids[0]: expected a page in [0, 96), got 96");
  const uint64_t first = pair.gpu.submit(arrays.request());
  const uint64_t second = pair.gpu.submit(arrays.request());
  CHECK_THROWS(pair.gpu.submit(arrays.request()), "expected at most 2 steps in flight");
  CHECK_THROWS(pair.gpu.collect(second), "is not the oldest one in flight");
  CHECK(equal(pair.gpu.collect(first), expected));
  CHECK(equal(pair.gpu.collect(second), expected));
  CHECK_THROWS(pair.gpu.collect(second), "is not the oldest one in flight");
}

TERRAZZO_TEST(sms_and_shapes_that_the_device_has_not) {
  Random random(1);
  const ModelShape shape = testing::tiny_shape(random, 1);
  CHECK_EQ(CudaModel(shape, kLimits, {}).num_sms(), 4u);
  CHECK_EQ(CudaModel(shape, kLimits, {.reserve_sms = 3}).num_sms(), 1u);
  CHECK_EQ(CudaModel(shape, kLimits, {.num_sms = 2}).num_sms(), 2u);
  CHECK_THROWS(CudaModel(shape, kLimits, {.num_sms = 5}), "expected at most 4 SMs, got 5");
  CHECK_THROWS(CudaModel(shape, kLimits, {.num_sms = 4, .reserve_sms = 1}), "at most 3 SMs, got 4");
  CHECK_THROWS(CudaModel(shape, kLimits, {.reserve_sms = 4}), "below the device's 4 SMs, got 4");
  ModelShape wide = shape;
  wide.num_kv_heads = 1;
  wide.num_heads = 17;
  CHECK_THROWS(CudaModel(wide, kLimits, {}), "at most 16 query heads a KV head, got 17");
  CHECK_THROWS(CudaModel(shape, kLimits, {}).submit(prompt(3).request()), "no tables yet");
}

/// A prompt timed whole, in part and not at all; the steps around it are as ever.
TERRAZZO_TEST(timing_runs_steps_and_leaves_the_model_usable) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    testing::seed_fake_runtime(seed);
    Pair pair(seed);
    const StepArrays arrays = prompt(100);
    const StepOutputs expected = pair.host.step(arrays.request());
    const Opcode attention = Opcode::kAttendPrefill;
    CHECK_EQ(pair.gpu.time_step(arrays.request(), {}, {.repeats = 3}).size(), 3u);
    CHECK_EQ(pair.gpu.time_step(arrays.request(), {&attention, 1}, {.repeats = 2}).size(), 2u);
    CHECK_EQ(pair.gpu.time_empty(50, {.repeats = 2, .sweep_cache = false}).size(), 2u);
    StepArrays next = prompt(1);
    next.token_ids[0] = -1;
    CHECK_THROWS(pair.gpu.submit(next.request()), "but it sampled 0 rows");
    const uint64_t number = pair.gpu.submit(arrays.request());
    CHECK_THROWS(pair.gpu.time_step(arrays.request(), {}, {}), "steps are in flight");
    CHECK(equal(pair.gpu.collect(number), expected));
    testing::fail_next_launch();
    CHECK_THROWS(pair.gpu.time_step(arrays.request(), {}, {}), "[watchdog]");
    CHECK(equal(pair.gpu.collect(pair.gpu.submit(arrays.request())), expected));
  }
  CHECK_EQ(testing::early_launches(), 0u);
}

/// Launches of a part must be those of its kind: the trace tells.
TERRAZZO_TEST(a_part_of_a_step_is_what_was_asked_for) {
  Random random(7);
  const ModelShape shape = testing::tiny_shape(random, 1);
  CudaModel gpu(shape, kLimits, {.trace_events = 100'000});
  CHECK_THROWS(gpu.time_empty(1, {}), "no weights yet");
  gpu.fill_random(3);
  const Opcode kind = Opcode::kGateUpSilu;
  gpu.time_step(prompt(100).request(), {&kind, 1}, {.repeats = 1});
  const std::vector<TraceEvent> events = gpu.events();
  CHECK(std::any_of(events.begin(), events.end(),
                    [](const TraceEvent& e) { return e.opcode == Opcode::kGateUpSilu; }));
  CHECK(std::all_of(events.begin(), events.end(), [](const TraceEvent& e) {
    return e.opcode == Opcode::kGateUpSilu || e.opcode == Opcode::kStepEnd;
  }));
}

TERRAZZO_TEST(random_models_give_finite_results) {
  for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
    Random random(seed);
    const ModelShape shape = testing::tiny_shape(random, 1);
    CudaModel gpu(shape, kLimits, {});
    gpu.fill_random(seed);
    const StepOutputs outputs = gpu.collect(gpu.submit(prompt(100).request()));
    CHECK(std::isfinite(outputs.logprobs[0]));
    CHECK(*std::max_element(outputs.logits.begin(), outputs.logits.end()) >
          *std::min_element(outputs.logits.begin(), outputs.logits.end()));
  }
}

TERRAZZO_TEST(events_are_those_of_the_last_step) {
  Random random(7);
  const ModelShape shape = testing::tiny_shape(random, 1);
  HostModel host(shape, kLimits, {.num_sms = 1, .num_threads = 1});
  const StepArrays arrays = prompt(100);
  const LoweredStep step = lower(arrays.request(), shape, kLimits, {4});
  for (const uint32_t capacity : {100'000u, 10u}) {
    CudaModel gpu(shape, kLimits, {.trace_events = capacity});
    testing::load(host, gpu, 7);
    for (int i = 0; i < 3; ++i) {
      gpu.collect(gpu.submit(arrays.request()));
    }
    const std::vector<TraceEvent> events = gpu.events();
    if (capacity == 10) {
      CHECK_EQ(events.size(), 10u);
      continue;
    }
    std::vector<uint32_t> seen(step.view(0).queue_size());
    for (const TraceEvent& event : events) {
      ++seen.at(event.position);
    }
    CHECK_EQ(std::count(seen.begin(), seen.end(), 0u), 0);
    CHECK(*std::max_element(seen.begin(), seen.end()) <= kNumRoles);
  }
}

TERRAZZO_TEST(memory_is_as_announced_and_comes_back) {
  const uint64_t before = testing::fake_device_bytes();
  {
    Pair pair(5);
    const uint64_t used = testing::fake_device_bytes() - before;
    const uint64_t announced = weight_bytes(pair.shape, kLimits.max_position) +
                               heap_layout(pair.shape, kLimits).total_bytes;
    CHECK(used >= announced);
    CHECK(used < announced + (4u << 20));  // programs; the buffers of loading are gone
  }
  CHECK_EQ(testing::fake_device_bytes(), before);
  CHECK_EQ(testing::fake_pinned_bytes(), 0u);
}

}  // namespace
}  // namespace terrazzo
