// Parts of a lowered step: what is kept, what waits, and how instructions are counted.
#include <algorithm>

#include "check.hpp"
#include "lower/brief_runs.hpp"
#include "lower/lower.hpp"
#include "lower/part_of_step.hpp"
#include "lower/steps.hpp"

namespace terrazzo {
namespace {

using testing::StepArrays;

constexpr ModelShape kShape{.num_layers = 3,
                            .hidden = 256,
                            .intermediate = 512,
                            .num_heads = 8,
                            .num_kv_heads = 4,
                            .head_dim = 64,
                            .vocab = 1000,
                            .norm_eps = 1e-5F,
                            .world = 1,
                            .split_tokens = 128};
constexpr StepLimits kLimits{.max_rows = 512,
                             .max_sequences = 16,
                             .max_position = 1024,
                             .num_pages = 64,
                             .max_logit_rows = 4,
                             .max_partials = 256};

/// Two decode rows and a prompt of 140: two row blocks.
LoweredStep mixed_step(const WeavePlan& weave = {}) {
  StepArrays arrays;
  arrays.add_sequence(1, 300);
  arrays.add_sequence(1, 20);
  arrays.add_sequence(140, 10);
  arrays.assign_pages(testing::ascending_pages(kLimits.num_pages));
  arrays.add_logit_row(0, 0.0F, 0, false);
  return lower(arrays.request(), kShape, kLimits, {132, weave});
}

uint64_t count(const LoweredStep& step, Opcode opcode) {
  return count_instructions(step, 0)[static_cast<uint32_t>(opcode)];
}

TERRAZZO_TEST(body_instructions_count_once_a_layer) {
  const LoweredStep step = mixed_step();
  uint64_t sum = 0;
  for (const uint64_t each : count_instructions(step, 0)) {
    sum += each;
  }
  CHECK_EQ(sum, step.view(0).queue_size());
  CHECK_EQ(count(step, Opcode::kStepEnd), 1u);
  CHECK_EQ(count(step, Opcode::kEmbed), 2u);                  // row blocks of 256 columns
  CHECK_EQ(count(step, Opcode::kAttendPrefill), 3u * 2 * 8);  // layers, row blocks, heads
}

TERRAZZO_TEST(a_woven_step_has_as_many) {
  const LoweredStep woven = mixed_step({.split_block = 1});
  CHECK(woven.view(0).queue_size() > mixed_step().view(0).queue_size());
  CHECK(count_instructions(woven, 0) == count_instructions(mixed_step(), 0));
}

TERRAZZO_TEST(what_is_kept_is_the_steps_and_waits_for_nothing) {
  const LoweredStep whole = mixed_step();
  for (uint32_t i = 1; i < kNumOpcodes; ++i) {
    const auto opcode = static_cast<Opcode>(i);
    LoweredStep part = whole;
    keep_only(part, {&opcode, 1});
    CHECK_EQ(count(part, opcode), count(whole, opcode));
    CHECK_EQ(part.view(0).queue_size(), count(whole, opcode) + 1);
    for (const auto& segment : part.gpus[0].segments) {
      for (const Instruction& instruction : segment) {
        CHECK(std::all_of(std::begin(instruction.waits), std::end(instruction.waits),
                          [](const Wait& wait) { return wait.count == 0; }));
      }
    }
  }
}

TERRAZZO_TEST(two_kinds_keep_the_steps_order) {
  LoweredStep step = mixed_step();
  const Opcode kinds[] = {Opcode::kAttendMerge, Opcode::kAttendDecode};
  keep_only(step, kinds);
  const auto& body = step.gpus[0].segment(Segment::kBody);
  CHECK(!body.empty());
  CHECK(std::is_sorted(body.begin(), body.end(), [](const auto& a, const auto& b) {
    return a.opcode == Opcode::kAttendDecode && b.opcode == Opcode::kAttendMerge;
  }));
  CHECK(body.back().opcode == Opcode::kAttendMerge);
  CHECK(body.front().opcode == Opcode::kAttendDecode);
}

TERRAZZO_TEST(empty_steps_are_as_long_as_asked_for) {
  const LoweredStep step = empty_step(1000, kShape);
  CHECK_EQ(step.view(0).queue_size(), 1001u);
  CHECK_EQ(count(step, Opcode::kEmbed), 1000u);
  CHECK(place_of(step.view(0), 1000).instruction->opcode == Opcode::kStepEnd);
  CHECK(step.counters_per_block() <= max_counters_per_block(kShape, kLimits));
}

TERRAZZO_TEST(only_runs_of_brief_instructions_are_marked) {
  const LoweredStep empty = empty_step(3 * kBriefRunLength, kShape);
  const auto& prologue = empty.gpus[0].segment(Segment::kPrologue);
  for (uint32_t i = 0; i < prologue.size(); ++i) {
    CHECK_EQ((prologue[i].flags & kBriefRun) != 0, i + kBriefRunLength < prologue.size());
  }
  CHECK_EQ(empty.gpus[0].segment(Segment::kEpilogue).back().flags, 0);
  LoweredStep step = mixed_step();
  auto& segment = step.gpus[0].segment(Segment::kPrologue);
  const Instruction embed = segment.front();
  segment.assign(2 * kBriefRunLength, embed);
  segment[kBriefRunLength].opcode = Opcode::kLmHead;
  mark_brief_runs(step);
  CHECK(std::none_of(segment.begin(), segment.end(),
                     [](const Instruction& at) { return (at.flags & kBriefRun) != 0; }));
  segment.insert(segment.begin(), embed);
  mark_brief_runs(step);
  CHECK(segment[0].flags == kBriefRun && segment[1].flags == 0);
  for (const Instruction& at : step.gpus[0].segment(Segment::kBody)) {
    CHECK_EQ(at.flags & kBriefRun, 0);
  }
}

TERRAZZO_TEST(a_walk_finds_the_places_of_positions) {
  for (const LoweredStep& step : {mixed_step(), mixed_step({.split_block = 1})}) {
    const ProgramView program = step.view(0);
    for (const uint32_t stride : {1u, 3u, program.body_size + 1}) {
      QueueWalk walk(program);
      for (uint32_t position = 0; position < program.queue_size(); position += stride) {
        const QueuePlace expected = place_of(program, position);
        const QueueEntry entry = walk.at(position);
        const QueuePlace place = entry.place(program, entry.instruction->layer_offset);
        CHECK(place.instruction == expected.instruction);
        CHECK_EQ(place.layer, expected.layer);
        CHECK_EQ(place.skip, expected.skip);
      }
    }
  }
}

TERRAZZO_TEST(names_are_those_of_the_table) {
  for (uint32_t i = 0; i < kNumOpcodes; ++i) {
    CHECK_EQ(static_cast<uint32_t>(opcode_named(kOpcodeNames[i])), i);
  }
  CHECK_THROWS(opcode_named("nonsense"), "expected one of step_end, embed, ");
  CHECK_THROWS(opcode_named("nonsense"), "reduce_o, got nonsense");
}

}  // namespace
}  // namespace terrazzo
