// Woven programs: sound by the verifier, the same bits on the checked machine, and what the planner
// makes of them.
#include <algorithm>

#include "check.hpp"
#include "host/session.hpp"
#include "lower/mutate.hpp"
#include "lower/verifier.hpp"
#include "simulate/device.hpp"
#include "simulate/simulator.hpp"
#include "simulate/weave_planner.hpp"

namespace terrazzo::testing {
namespace {

uint32_t blocks_of(const LoweredStep& step) {
  return ceil_div(static_cast<uint32_t>(step.rows.size()), kRowBlock);
}

WeavePlan plan_for(uint64_t seed, uint32_t blocks) {
  WeavePlan plan;
  plan.split_block = 1 + static_cast<uint32_t>(seed) % (blocks - 1);
  plan.curves = {even_curve(40 + 20 * (seed % 4)), even_curve(100)};
  return plan;
}

TERRAZZO_TEST(woven_programs_are_sound) {
  uint32_t woven = 0;
  for (uint64_t seed = 0; seed < 48; ++seed) {
    TestCase test = random_case(seed, 1U << seed % 4);
    const uint32_t blocks = blocks_of(lower(test));
    if (blocks < 2) {
      continue;
    }
    test.options.weave = plan_for(seed, blocks);
    const LoweredStep step = lower(test);
    CHECK_EQ(to_string(verify(step, test.shape, test.limits)), "");
    ++woven;
  }
  CHECK(woven >= 12);
}

TERRAZZO_TEST(weaving_keeps_every_instruction) {
  uint64_t seed = 0;
  while (blocks_of(lower(random_case(seed, 2))) < 3) {
    ++seed;
  }
  TestCase test = random_case(seed, 2);
  const LoweredStep plain = lower(test);
  const uint32_t blocks = blocks_of(plain);
  test.options.weave = plan_for(0, blocks);
  const LoweredStep woven = lower(test);
  for (uint32_t gpu = 0; gpu < 2; ++gpu) {
    CHECK_EQ(woven.view(gpu).body_size, plain.view(gpu).body_size);
    CHECK(woven.view(gpu).prologue_size > plain.view(gpu).prologue_size);
    const auto& body = woven.gpus[gpu].segment(Segment::kBody);
    const auto ahead = std::count_if(body.begin(), body.end(), [](const Instruction& instruction) {
      return instruction.layer_offset == 1;
    });
    // What the prologue does of layer 0 and QKV of A in layer 1, which it leaves to the body.
    const uint32_t early = woven.view(gpu).prologue_size - plain.view(gpu).prologue_size;
    CHECK_EQ(static_cast<uint32_t>(ahead), early);
    CHECK(early > 0);
  }
  test.options.weave.split_block = blocks;
  CHECK_THROWS(lower(test), "expected a split below");
}

TERRAZZO_TEST(orders_have_texts) {
  CHECK_EQ(to_text({}), "plain");
  CHECK_EQ(weave_plan_of("plain").split_block, 0U);
  const WeavePlan even{4, {even_curve(80), even_curve(95)}};
  CHECK_EQ(to_text(even), "4:80:95");
  CHECK(weave_plan_of("4:80:95").curves == even.curves);
  WeavePlan odd{7, {even_curve(80), even_curve(95)}};
  odd.curves[1][3] += 1;
  const WeavePlan back = weave_plan_of(to_text(odd));
  CHECK_EQ(back.split_block, 7U);
  CHECK(back.curves == odd.curves);
  for (const char* wrong :
       {"", "4", "4:80", "0:80:80", "4:101:80", "4:80:8x", "4:80:80:80", "a:1:2"}) {
    CHECK_THROWS(weave_plan_of(wrong), "expected plain, or a split block and two curves");
  }
  std::string falling = to_text(odd);
  falling[falling.size() - 1] = '0';
  CHECK_THROWS(weave_plan_of(falling), "expected plain");
}

/// Runs some steps in both orders and compares what they sample; the number of woven steps.
uint32_t check_bits(const Session& session, uint64_t seed, bool checked) {
  const auto plain_machine = session.machine();
  const auto woven_machine = session.machine(checked ? 1 : 2);
  uint32_t woven_steps = 0;
  for (uint32_t i = 0; i < 3; ++i) {
    const StepArrays arrays = session.traffic->next();
    LowerOptions options = session.options;
    const LoweredStep plain = lower(arrays.request(), session.shape, session.limits, options);
    if (blocks_of(plain) >= 2) {
      options.weave = plan_for(seed, blocks_of(plain));
      ++woven_steps;
    }
    const LoweredStep woven = lower(arrays.request(), session.shape, session.limits, options);
    plain_machine->run(plain);
    if (checked) {
      woven_machine->run_checked(woven, {seed, host::Lateness::kRandom, {}});
    } else {
      woven_machine->run(woven);
    }
    for (uint32_t row = 0; row < plain.logit_rows.size(); ++row) {
      const SampledToken& expected = plain_machine->sampled()[row];
      const SampledToken& seen = woven_machine->sampled()[row];
      if (seen.token != expected.token || seen.logprob != expected.logprob) {
        report_seed(__FILE__, __LINE__, seed, "a woven step sampled something else");
        return woven_steps;
      }
    }
  }
  return woven_steps;
}

TERRAZZO_TEST(woven_steps_have_the_same_bits) {
  uint32_t steps = 0;
  for (const uint64_t seed : seeds_to_run(12, 4)) {  // crowds of several row blocks; 1 to 8 GPUs
    steps += check_bits(make_session(seed), seed, true);
  }
  for (const uint64_t seed : seeds_to_run(28, 4)) {
    steps += check_bits(make_session(seed), seed, false);
  }
  CHECK(steps >= 10 || !runs_all_seeds());
}

TERRAZZO_TEST(harmful_changes_of_woven_programs_are_seen) {
  uint32_t changed = 0;
  uint32_t rejected = 0;
  for (uint64_t seed = 0; seed < 240; ++seed) {
    TestCase test = random_case(seed % 60, 1U << seed % 3);
    const uint32_t blocks = blocks_of(lower(test));
    if (blocks < 2) {
      continue;
    }
    test.options.weave = plan_for(seed, blocks);
    const auto mutation = mutate(lower(test), seed);
    if (mutation) {
      ++changed;
      rejected += verify(mutation->step, test.shape, test.limits).empty() ? 0 : 1;
    }
  }
  CHECK(changed > 20);
  // Some waits are implied by others, and then a program without them is sound.
  CHECK(rejected * 10 > changed * 8);
}

/// A step with attention worth hiding.
TestCase decode_case(int32_t sequences, int32_t context) {
  TestCase test{.shape = {.num_layers = 8,
                          .hidden = 4096,
                          .intermediate = 14336,
                          .num_heads = 32,
                          .num_kv_heads = 8,
                          .head_dim = 128,
                          .vocab = 32000,
                          .norm_eps = 1e-5F,
                          .world = 1,
                          .split_tokens = 2048},
                .limits = {.max_rows = 4096,
                           .max_sequences = 4096,
                           .max_position = 4096,
                           .num_pages = 40000,
                           .max_logit_rows = 1,
                           .max_partials = 0},
                .options = {},
                .arrays = {}};
  for (int32_t i = 0; i < sequences; ++i) {
    test.arrays.add_sequence(1, context);
  }
  test.arrays.assign_pages(ascending_pages(test.limits.num_pages));
  return test;
}

TERRAZZO_TEST(the_planner_weaves_where_that_is_faster) {
  const TestCase test = decode_case(2048, 448);
  const CostModel model = large_device();
  WeavePlanner planner(test.shape, test.limits, test.options, model);
  const PlannedOrder order = planner.plan(test.arrays.request());
  CHECK(order.plan.split_block > 0);
  CHECK(order.best_ns * 1.1 < order.plain_ns);
  LowerOptions options = test.options;
  options.weave = order.plan;
  const LoweredStep woven = lower(test.arrays.request(), test.shape, test.limits, options);
  CHECK_EQ(to_string(verify(woven, test.shape, test.limits)), "");
  // What the planner reckons from a few layers is what all of them take.
  CHECK_NEAR(simulate(woven, test.shape, model, {}).step_ns, order.best_ns, 0.02 * order.best_ns);
  CHECK_NEAR(simulate(lower(test), test.shape, model, {}).step_ns, order.plain_ns,
             0.02 * order.plain_ns);
}

TERRAZZO_TEST(the_planner_leaves_small_steps_alone) {
  const TestCase test = decode_case(64, 448);
  WeavePlanner planner(test.shape, test.limits, test.options, large_device());
  const PlannedOrder order = planner.plan(test.arrays.request());
  CHECK_EQ(order.plan.split_block, 0U);
  CHECK_EQ(order.best_ns, order.plain_ns);
}

TERRAZZO_TEST(the_planner_keeps_orders_by_class) {
  const CostModel model = large_device();
  TestCase test = decode_case(256, 448);
  WeavePlanner planner(test.shape, test.limits, test.options, model);
  const PlannedOrder* const first = &planner.plan(test.arrays.request());
  test = decode_case(256, 450);  // as many pages
  CHECK(&planner.plan(test.arrays.request()) == first);
  CHECK_EQ(planner.num_classes(), 1U);
  test = decode_case(256, 900);
  CHECK(&planner.plan(test.arrays.request()) != first);
  CHECK_EQ(planner.num_classes(), 2U);
}

}  // namespace
}  // namespace terrazzo::testing
