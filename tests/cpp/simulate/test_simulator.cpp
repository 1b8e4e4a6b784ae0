// The simulator on tiny programs whose times are worked out by hand, and its trace on random steps.
#include <algorithm>
#include <map>

#include "check.hpp"
#include "lower/steps.hpp"
#include "simulate/device.hpp"
#include "simulate/simulator.hpp"

namespace terrazzo::testing {
namespace {

constexpr double kNs = 1e-6;  // how exact a time is
constexpr uint32_t kHidden = 640;
constexpr uint32_t kPanels = kHidden / kPanelCols;
constexpr double kSlots = 3 * kPanels + 1;  // of a gate_up_silu: its sums of squares fit a slot

ModelShape tiny(uint32_t world = 1) {
  return {.num_layers = 1,
          .hidden = kHidden,
          .intermediate = 4096,
          .num_heads = 8,
          .num_kv_heads = 8,
          .head_dim = 64,
          .vocab = 300,
          .norm_eps = 1e-5F,
          .world = world,
          .split_tokens = 64};
}

/// A program of `count` tiles of gate_up_silu, each of another weight, and a step_end that waits
/// for all; on one GPU.
LoweredStep tiles(uint32_t count) {
  LoweredStep step;
  step.num_layers = 1;
  step.rows.resize(kRowBlock);
  step.counters = CounterMap(1, 1, 0, 0);
  GpuProgram& program = step.gpus.emplace_back();
  const int32_t counter = step.counters.at(CounterFamily::kAct, 0);
  for (uint32_t i = 0; i < count; ++i) {
    Instruction& tile = program.segment(Segment::kBody).emplace_back();
    tile.opcode = Opcode::kGateUpSilu;
    tile.args.gemm = {0, kRowBlock, 4 * i, 4, kPanels};
    tile.signals[0] = {counter, 1, 1, 1};
  }
  Instruction& end = program.segment(Segment::kEpilogue).emplace_back();
  end.opcode = Opcode::kStepEnd;
  end.waits[0] = {step.counters.previous(counter), 1, 0, kNumConsumers * count};
  return step;
}

KindCost& gate_up(CostModel& model) {
  return model.kinds[static_cast<uint32_t>(Opcode::kGateUpSilu)];
}

double time_of(const LoweredStep& step, const CostModel& model) {
  return simulate(step, tiny(), model, {.tolerance = 0}).step_ns;
}

TERRAZZO_TEST(one_instruction_takes_the_longer_of_its_streams) {
  CostModel model = free_device();
  gate_up(model) = {.load_slot_ns = 100, .consume_slot_ns = 50};
  CHECK_NEAR(time_of(tiles(1), model), 100 * kSlots, 1);
  gate_up(model).consume_slot_ns = 200;
  CHECK_NEAR(time_of(tiles(1), model), 200 * kSlots, 1);
}

TERRAZZO_TEST(latencies_add_up_along_a_chain) {
  CostModel model = free_device();
  model.claim_ns = 430;
  model.handover_ns = 140;
  model.load_latency_ns = 500;
  model.store_latency_ns = 180;
  model.signal_ns = 700;
  gate_up(model) = {.load_slot_ns = 100,
                    .consume_slot_ns = 50,
                    .consume_fixed_ns = 10,
                    .consume_stage_ns = 20,
                    .store_fixed_ns = 30,
                    .store_stage_ns = 40};
  // Claim, first data, stream, the tail (10 + 4 stages of 20), the stores (30 + 4 of 40). step_end
  // was claimed long ago: signal, its (empty) load, its store.
  const double tile_ns = 430 + 500 + 100 * kSlots + 90 + 190 + 180;
  CHECK_NEAR(time_of(tiles(1), model), tile_ns + 700 + 500 + 180, 1);
}

TERRAZZO_TEST(the_loader_runs_ahead_by_the_ring) {
  CostModel model = free_device();
  gate_up(model) = {.load_slot_ns = 100, .consume_slot_ns = 50, .consume_fixed_ns = 1000};
  // Between the streams lies the first tail, in which 10 slots of the second instruction land; the
  // second stream then waits for the loader, which never stops.
  CHECK_NEAR(time_of(tiles(2), model), 100 * 2 * kSlots + 1000, 1);
  // In a tail of 3000 the ring of 12 fills up.
  gate_up(model).consume_fixed_ns = 3000;
  CHECK_NEAR(time_of(tiles(2), model), 100 * kSlots + 3000 + 100 * (kSlots - 12) + 3000, 1);
  // With the consumers the slower side, the loader does not show.
  gate_up(model) = {.load_slot_ns = 100, .consume_slot_ns = 200, .consume_fixed_ns = 1000};
  CHECK_NEAR(time_of(tiles(3), model), 100 + 3 * (200 * kSlots + 1000), 201);
}

TERRAZZO_TEST(a_second_store_waits_for_the_first) {
  CostModel model = free_device();
  gate_up(model) = {.load_slot_ns = 1, .store_fixed_ns = 5000};
  // The consumers have nothing to do, and cannot hand over a second tile before the first is out.
  CHECK_NEAR(time_of(tiles(3), model), kSlots + 3 * 5000, 1);
}

TERRAZZO_TEST(sms_share_the_queue) {
  CostModel model = free_device();
  gate_up(model) = {.load_slot_ns = 100};
  model.num_sms = 3;
  CHECK_NEAR(time_of(tiles(3), model), 100 * kSlots, 1);
  CHECK_NEAR(time_of(tiles(4), model), 2 * 100 * kSlots, 1);
}

TERRAZZO_TEST(sms_share_hbm) {
  CostModel model = free_device();
  gate_up(model) = {.load_slot_ns = 100};
  model.num_sms = 2;
  model.cache_bytes = 1e9;
  // Tiles of 256 columns: 32 KB of weights a k tile from HBM. Tokens are read by both, once from
  // HBM. Without a limit 31 slots take 3100 ns.
  const double weights = 2.0 * 256 * kHidden;
  const double tokens = 2.0 * 128 * kHidden + 128 * 4 * kPanels;
  const double free_ns = 100 * kSlots;
  CHECK_NEAR(time_of(tiles(2), model), free_ns, 1);
  model.hbm_gbps = (2 * weights + tokens) / free_ns / 2;
  // The second tile has less to fetch and is done sooner; HBM is never idle.
  CHECK_NEAR(time_of(tiles(2), model), 2 * free_ns, 1);
  CHECK_NEAR(time_of(tiles(1), model), (weights + tokens) / model.hbm_gbps, 1);
}

TERRAZZO_TEST(sms_share_the_tensor_cores_power) {
  CostModel model = free_device();
  gate_up(model) = {.load_slot_ns = 1, .consume_ns_per_mflop = 150};
  const double mflop = 2.0 * 128 * 256 * kHidden * 1e-6;
  model.num_sms = 4;
  CHECK_NEAR(time_of(tiles(4), model), 150 * mflop, 40);
  model.tensor_tflops = 4 / 150.0 * 1e3 / 1.5;  // two thirds of what 4 SMs would do
  CHECK_NEAR(time_of(tiles(4), model), 1.5 * 150 * mflop, 60);
  CHECK_NEAR(time_of(tiles(2), model), 150 * mflop, 40);
}

TERRAZZO_TEST(hbm_takes_power_from_the_tensor_cores) {
  CostModel model = free_device();
  gate_up(model) = {.load_slot_ns = 1, .consume_ns_per_mflop = 150};
  model.tensor_tflops = 1e3 / 150.0;
  const double alone_ns = time_of(tiles(1), model);
  const double tbps = (2.0 * (256 + 128) * kHidden + 128 * 4 * kPanels) / alone_ns * 1e-3;
  model.tflops_per_hbm_tbps = 0.2 * model.tensor_tflops / tbps;
  const double slowed_ns = time_of(tiles(1), model);
  CHECK(slowed_ns > 1.1 * alone_ns);
  CHECK(slowed_ns < 1.3 * alone_ns);
}

TERRAZZO_TEST(what_was_read_lately_is_in_l2) {
  CostModel model = free_device();
  gate_up(model) = {.load_slot_ns = 1};
  LoweredStep step = tiles(2);
  step.gpus[0].segment(Segment::kBody)[1].args.gemm.first_panel = 0;  // the same weight again
  const double weights = 2.0 * 256 * kHidden;
  const double tokens = 2.0 * 128 * kHidden + 128 * 4 * kPanels;
  const auto hbm_bytes = [&] { return simulate(step, tiny(), model, {}).totals[0].hbm_bytes; };
  model.cache_bytes = 2 * (weights + tokens);
  CHECK_EQ(hbm_bytes(), weights + tokens);
  model.cache_bytes = 0;
  CHECK(hbm_bytes() > 1.5 * weights);
}

TERRAZZO_TEST(time_goes_on_late_in_a_long_step) {
  CostModel model = free_device();
  gate_up(model) = {.load_slot_ns = 1e7, .consume_slot_ns = 1e-3};
  // A slot takes so long that an instant after it is the same number; step_end takes no time.
  CHECK_NEAR(time_of(tiles(3), model), 3 * 1e7 * kSlots, 1e3);
}

TERRAZZO_TEST(nvlink_is_shared) {
  ModelShape shape = tiny(2);
  shape.num_layers = 2;
  StepArrays arrays;
  arrays.add_sequence(128, 0);
  arrays.assign_pages(ascending_pages(4));
  const StepLimits limits{.max_rows = 256,
                          .max_sequences = 4,
                          .max_position = 256,
                          .num_pages = 8,
                          .max_logit_rows = 1,
                          .max_partials = 0};
  const LoweredStep step = lower(arrays.request(), shape, limits, {.num_sms = 4});
  CostModel model = free_device();
  model.num_sms = 4;
  const SimResult free = simulate(step, shape, model, {});
  model.nvlink_gbps = 1;
  const SimResult slow = simulate(step, shape, model, {});
  CHECK(free.totals[0].peer_bytes > 0);
  CHECK_EQ(free.totals[1].peer_bytes, slow.totals[1].peer_bytes);
  // A GPU has nothing to do while the other sends it what it needs.
  CHECK(slow.step_ns > free.totals[0].peer_bytes);
  CHECK(slow.step_ns < 2.5 * (free.totals[0].peer_bytes + free.totals[1].peer_bytes));
}

TERRAZZO_TEST(a_wait_that_is_never_met_is_reported) {
  LoweredStep step = tiles(2);
  step.gpus[0].segment(Segment::kBody)[1].signals[0] = {};
  CHECK_THROWS(time_of(step, free_device()), "a wait is never met");
  CHECK_THROWS(time_of(step, CostModel{}), "hbm_gbps: expected more than 0");
}

using Key = std::pair<uint32_t, uint32_t>;  // (GPU, queue position)

/// Waits that some instruction's trace contradicts: its last slot landed before the signals that
/// it waits for.
uint32_t broken_waits(const LoweredStep& step, const SimResult& result, const CostModel& model) {
  std::map<Key, std::map<RoleKind, const TraceEvent*>> events;
  for (const TraceEvent& event : result.events) {
    events[{event.gpu, event.position}][event.role] = &event;
  }
  // By (GPU, counter): when the last signal was given.
  std::map<Key, uint64_t> signalled;
  const auto visit = [&](const auto& body) {
    for (const auto& [key, roles] : events) {
      body(key.first, place_of(step.view(key.first), key.second), roles);
    }
  };
  const uint32_t block = step.counters_per_block();
  visit([&](uint32_t, const QueuePlace& place, const auto& roles) {
    for (const Signal& signal : place.instruction->signals) {
      for (uint32_t gpu = 0; signal.count > 0 && gpu < step.gpus.size(); ++gpu) {
        if ((signal.gpus >> gpu & 1U) != 0) {
          uint64_t& last = signalled[{gpu, counter_index(block, place.layer, signal.first)}];
          last = std::max(last, roles.at(RoleKind::kStorer1)->end_ns);
        }
      }
    }
  });
  uint32_t broken = 0;
  visit([&](uint32_t gpu, const QueuePlace& place, const auto& roles) {
    for (const Wait& wait : place.instruction->waits) {
      for (int32_t i = 0; i < wait.count; ++i) {
        const uint32_t counter = counter_index(block, place.layer, wait.first + i);
        const double ready = static_cast<double>(signalled[{gpu, counter}]) + model.signal_ns;
        const TraceEvent& loader = *roles.at(RoleKind::kLoader);
        const bool early = static_cast<double>(loader.end_ns) + 1 < ready + model.load_latency_ns ||
                           static_cast<double>(roles.at(RoleKind::kConsumer0)->end_ns) + 1 < ready;
        broken += early ? 1 : 0;
      }
    }
  });
  return broken;
}

TERRAZZO_TEST(a_trace_has_every_instruction_and_obeys_every_wait) {
  uint32_t waits_seen_broken = 0;
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const TestCase test = random_case(seed, 1U << seed % 4);
    LoweredStep step = lower(test);
    CostModel model = large_device();
    model.num_sms = 1 + static_cast<uint32_t>(seed) * 7;
    const SimResult result = simulate(step, test.shape, model, {.trace = true});
    size_t instructions = 0;
    for (uint32_t gpu = 0; gpu < step.gpus.size(); ++gpu) {
      instructions += step.view(gpu).queue_size();
    }
    CHECK_EQ(result.events.size(), instructions * (kNumRoles - 1));
    for (const TraceEvent& event : result.events) {
      CHECK(event.begin_ns <= event.end_ns);
      CHECK(event.waited_ns <= event.end_ns - event.begin_ns);
      CHECK(event.sm < model.num_sms);
      CHECK(static_cast<double>(event.end_ns) <= result.step_ns);
    }
    CHECK_EQ(broken_waits(step, result, model), 0U);

    // The check does see a program that does not wait.
    LoweredStep hasty = step;
    for (GpuProgram& program : hasty.gpus) {
      for (auto& segment : program.segments) {
        for (Instruction& instruction : segment) {
          std::fill(std::begin(instruction.waits), std::end(instruction.waits), Wait{});
        }
      }
    }
    waits_seen_broken +=
        broken_waits(step, simulate(hasty, test.shape, model, {.trace = true}), model);
  }
  CHECK(waits_seen_broken > 0);
}

TERRAZZO_TEST(steps_end_where_nothing_takes_time) {
  for (uint64_t seed = 0; seed < 12; ++seed) {
    const TestCase test = random_case(seed, 1U << seed % 4);
    CostModel model = free_device();
    model.signal_ns = 0.7;
    for (const uint32_t sms : {1U, 5U}) {
      const SimResult result = simulate(lower(test), test.shape, model, {.num_sms = sms});
      CHECK(result.step_ns > 0);
      CHECK(result.step_ns < 1e5);
    }
  }
}

TERRAZZO_TEST(the_same_step_takes_the_same_time) {
  const TestCase test = random_case(5, 2);
  const LoweredStep step = lower(test);
  const CostModel model = large_device();
  const SimResult first = simulate(step, test.shape, model, {.trace = true});
  const SimResult second = simulate(step, test.shape, model, {.trace = true});
  CHECK_EQ(first.step_ns, second.step_ns);
  CHECK_EQ(first.events.size(), second.events.size());
  for (size_t i = 0; i < first.events.size(); ++i) {
    CHECK_EQ(first.events[i].end_ns, second.events[i].end_ns);
    CHECK_EQ(first.events[i].sm, second.events[i].sm);
  }
}

TERRAZZO_TEST(tolerance_changes_little) {
  for (const uint64_t seed : {3U, 8U}) {
    const TestCase test = random_case(seed, 1);
    const LoweredStep step = lower(test);
    CostModel model = large_device();
    model.hbm_gbps = 500;  // so that there is something to share
    model.tensor_tflops = 100;
    const double exact = simulate(step, test.shape, model, {.tolerance = 0}).step_ns;
    CHECK_NEAR(simulate(step, test.shape, model, {}).step_ns, exact, 0.02 * exact);
  }
}

TERRAZZO_TEST(values_of_a_model_have_names) {
  CostModel model;
  double value = 1;
  for (const std::string& name : CostModel::fields()) {
    model.set(name, value);
    CHECK_EQ(model.get(name), value);
    value += 1;
  }
  CHECK_EQ(model.num_sms, 1U);
  CHECK(model.get("lm_head.small.load_slot_ns") > model.get("lm_head.load_slot_ns"));
  CHECK_THROWS(model.set("embed.small.load_slot_ns", 1), "unknown value embed.small.load_slot_ns");
  CHECK_THROWS(model.set("hbm", 1), "unknown value hbm");
  CHECK_THROWS(model.set("hbm_gbps", -1), "at least 0");
  CHECK_THROWS(model.set("num_sms", 1.5), "1 to 1024");
}

}  // namespace
}  // namespace terrazzo::testing
