// A step's time from a few layers, and the clock that its power leaves.
#include <cmath>

#include "check.hpp"
#include "lower/steps.hpp"
#include "simulate/bench_steps.hpp"
#include "simulate/device.hpp"
#include "simulate/estimate.hpp"
#include "simulate/simulator.hpp"

namespace terrazzo::testing {
namespace {

/// A step of an 8B model, lowered for 132 SMs.
struct Bench {
  ModelShape shape = shape_named("8b");
  LoweredStep step;

  explicit Bench(const std::string& text, uint32_t layers = 32) {
    StepKind kind;
    CHECK(parse_step(text, kind));
    shape.num_layers = layers;
    std::mt19937_64 random(1);
    const terrazzo::StepArrays arrays(kind, shape.vocab, random);
    step = lower(arrays.request(), shape, limits_for({kind}), {});
  }
};

TERRAZZO_TEST(few_layers_tell_the_time_of_all) {
  const Bench bench("256@447");
  const CostModel model = large_device();
  const double all_ns = simulate(bench.step, bench.shape, model, {}).step_ns;
  const StepEstimate found = estimate(bench.step, bench.shape, model);
  CHECK_NEAR(found.step_ns, all_ns, 0.01 * all_ns);
  CHECK_EQ(found.clock, 1.0);
  // The launch counts once, not once a layer.
  CostModel later = model;
  later.launch_ns = 5000;
  CHECK_NEAR(estimate(bench.step, bench.shape, later).step_ns, found.step_ns + 5000, 1);
}

TERRAZZO_TEST(the_clock_is_what_power_leaves) {
  const Bench bench("512@447", 8);
  CostModel model = large_device();
  const StepEstimate free = estimate(bench.step, bench.shape, model);
  model.power_tflops = free.tensor_flops / free.step_ns * 1e-3 * 0.6;
  const StepEstimate capped = estimate(bench.step, bench.shape, model);
  CHECK(capped.clock < 0.95);
  CHECK(capped.step_ns > free.step_ns);
  // At that clock the step takes the power that there is.
  const double tflops = capped.tensor_flops / capped.step_ns * 1e-3;
  CHECK_NEAR(tflops * capped.clock * capped.clock, model.power_tflops, 0.03 * model.power_tflops);
  // Bytes take power too; and the search may begin anywhere.
  model.power_tflops_per_hbm_tbps = 10;
  const StepEstimate less = estimate(bench.step, bench.shape, model, 0, 0.5);
  CHECK(less.clock < capped.clock - 0.005);
  // The simulator finds the same clock by itself.
  const SimResult whole = simulate(bench.step, bench.shape, model, {});
  CHECK_NEAR(whole.clock, less.clock, 0.02);
  CHECK_NEAR(whole.step_ns, less.step_ns, 0.03 * less.step_ns);
}

TERRAZZO_TEST(bytes_from_hbm_take_from_l2) {
  const Bench bench("256@447", 2);
  CostModel model = large_device();
  model.l2_gbps = 4000;
  const double before = simulate(bench.step, bench.shape, model, {}).step_ns;
  model.l2_per_hbm = 1;
  CHECK(simulate(bench.step, bench.shape, model, {}).step_ns > 1.1 * before);
}

TERRAZZO_TEST(a_row_alone_keeps_one_consumer_busy) {
  // So few that each row and head is an instruction, of which one consumer does all the work.
  const Bench bench("16@511", 1);
  CostModel model = free_device();
  model.num_sms = 132;
  KindCost& cost = model.kinds[static_cast<uint32_t>(Opcode::kAttendDecode)];
  cost.consume_slot_ns = 100;
  const WorkTable table(bench.shape, bench.step.tables());
  uint32_t alone = 0;
  for (const Instruction& instruction : bench.step.gpus[0].segment(Segment::kBody)) {
    const Work work = table.of(instruction, 0);
    if (instruction.opcode != Opcode::kAttendDecode) {
      CHECK_EQ(work.busy_slots, work.slots);
      continue;
    }
    const AttendDecodeArgs& args = instruction.args.attend_decode;
    const uint32_t slots = (args.rows + 1) / 2 * 2 * 8 * 2;  // 8 pages of 2 slots a row
    CHECK_EQ(work.busy_slots, std::max(slots, work.slots));
    alone += args.rows == 1 ? 1 : 0;
  }
  CHECK(alone > 0);
}

}  // namespace
}  // namespace terrazzo::testing
