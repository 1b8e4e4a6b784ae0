#include "lower/emitter.hpp"

#include "check.hpp"

namespace terrazzo {
namespace {

using enum CounterFamily;
using Segment::kBody;
using Segment::kEpilogue;
using Segment::kPrologue;

/// An empty step of 2 row blocks on 2 GPUs.
LoweredStep empty() {
  LoweredStep step;
  step.num_layers = 3;
  step.counters = CounterMap(2, 1, 1, 0);
  return step;
}

void signal(Emitter& emitter, int32_t counter, uint32_t increment, uint32_t gpus) {
  Emitted instruction = emitter.emit(Opcode::kEmbed);
  emitter.signal(instruction, counter, increment, gpus);
}

void wait(Emitter& emitter, int32_t first, uint32_t count = 1) {
  Emitted instruction = emitter.emit(Opcode::kGateUpSilu);
  emitter.wait(instruction, first, count);
}

TERRAZZO_TEST(a_target_is_the_sum_of_all_gpus_signals) {
  LoweredStep step = empty();
  const int32_t x1 = step.counters.at(kX1, 0);
  Emitter emitter(step, 2);
  emitter.select(0, kBody);
  signal(emitter, x1, 4, emitter.all());
  signal(emitter, x1 + 1, 3, emitter.own());
  emitter.select(1, kBody);
  signal(emitter, x1, 5, emitter.all());
  signal(emitter, x1 + 1, 6, 1);
  wait(emitter, x1);
  emitter.select(0, kBody);
  wait(emitter, x1, 2);
  emitter.check_targets();
  const Wait& other = step.gpus[1].segment(kBody).back().waits[0];
  CHECK_EQ(other.target, kNumConsumers * 9);
  const Wait& run = step.gpus[0].segment(kBody).back().waits[0];
  CHECK_EQ(run.first, x1);
  CHECK_EQ(run.count, 2);
  CHECK_EQ(run.target, kNumConsumers * 9);
  CHECK_EQ(step.gpus[0].segment(kBody)[0].signals[0].gpus, 3);
  CHECK_EQ(step.gpus[0].segment(kPrologue).size(), 0u);
}

TERRAZZO_TEST(the_block_before_is_the_segments_before) {
  LoweredStep step = empty();
  const int32_t x = step.counters.at(kX, 0);
  const int32_t previous = step.counters.previous(x);
  Emitter emitter(step, 1);
  emitter.select(0, kPrologue);
  signal(emitter, x, 7, emitter.own());
  emitter.select(0, kBody);
  wait(emitter, previous);
  signal(emitter, x, 7, emitter.own());
  emitter.select(0, kEpilogue);
  wait(emitter, previous);
  emitter.check_targets();
  for (const Segment segment : {kBody, kEpilogue}) {
    CHECK_EQ(step.gpus[0].segment(segment)[0].waits[0].first, previous);
    CHECK_EQ(step.gpus[0].segment(segment)[0].waits[0].target, kNumConsumers * 7);
  }
}

TERRAZZO_TEST(targets_that_do_not_fit_are_refused) {
  LoweredStep step = empty();
  const int32_t x = step.counters.at(kX, 0);
  Emitter emitter(step, 1);
  emitter.select(0, kPrologue);
  signal(emitter, x, 7, emitter.own());
  signal(emitter, x + 1, 8, emitter.own());
  emitter.select(0, kBody);
  CHECK_THROWS(wait(emitter, step.counters.previous(x), 2),
               "gate_up_silu: expected equal sums above 0 in a run of counters, got 14 and 16");
  CHECK_THROWS(wait(emitter, x), "above 0 in a run of counters, got 0 and 0");
}

TERRAZZO_TEST(a_signal_after_a_wait_is_found) {
  LoweredStep step = empty();
  const int32_t act = step.counters.at(kAct, 1);
  Emitter emitter(step, 1);
  emitter.select(0, kBody);
  signal(emitter, act, 2, emitter.own());
  wait(emitter, act);
  emitter.check_targets();
  signal(emitter, act, 2, emitter.own());
  CHECK_THROWS(emitter.check_targets(), "ACT[1]: a wait found a sum of 4, later it was 8");
  wait(emitter, act);  // another one that finds the whole sum does not mend the first
  CHECK_THROWS(emitter.check_targets(), "ACT[1]: a wait found a sum of 4, later it was 8");
}

TERRAZZO_TEST(layers_add_as_much_as_the_prologue) {
  LoweredStep step = empty();
  const int32_t x = step.counters.at(kX, 1);
  Emitter emitter(step, 2);
  emitter.select(1, kPrologue);
  signal(emitter, x, 7, emitter.own());
  emitter.select(1, kBody);
  wait(emitter, step.counters.previous(x));
  signal(emitter, x, 6, emitter.own());
  CHECK_THROWS(emitter.check_targets(), "X[1]: expected 12 from the prologue too, got 14");
}

TERRAZZO_TEST(large_increments_take_several_signals) {
  LoweredStep step = empty();
  Emitter emitter(step, 1);
  emitter.select(0, kBody);
  signal(emitter, 0, 300, emitter.own());
  const auto& signals = step.gpus[0].segment(kBody)[0].signals;
  CHECK_EQ(signals[0].increment, 255);
  CHECK_EQ(signals[1].increment, 45);
  CHECK_THROWS(signal(emitter, 0, 511, emitter.own()), "embed: no room for more signals");
}

TERRAZZO_TEST(an_instruction_has_room_for_three_waits) {
  LoweredStep step = empty();
  Emitter emitter(step, 1);
  emitter.select(0, kBody);
  signal(emitter, 0, 1, emitter.own());
  Emitted instruction = emitter.emit(Opcode::kStepEnd);
  for (uint32_t i = 0; i < kNumWaits; ++i) {
    emitter.wait(instruction, 0);
  }
  CHECK_THROWS(emitter.wait(instruction, 0), "step_end: no room for more waits");
}

TERRAZZO_TEST(brief_instructions_are_counted) {
  LoweredStep step = empty();
  Emitter emitter(step, 2);
  emitter.emit(Opcode::kEmbed);
  emitter.emit(Opcode::kLmHead);
  emitter.select(1, kEpilogue);
  emitter.emit(Opcode::kGatherNorm);
  CHECK_EQ(emitter.num_brief(), 2u);
}

}  // namespace
}  // namespace terrazzo
