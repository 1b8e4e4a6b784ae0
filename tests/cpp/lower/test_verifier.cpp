// The verifier accepts every program that the lowering makes, and rejects harmful changes to them.
#include "lower/verifier.hpp"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <set>

#include "check.hpp"
#include "lower/mutate.hpp"
#include "lower/steps.hpp"

namespace terrazzo {
namespace {

using testing::TestCase;

constexpr uint32_t kWorlds[] = {1, 2, 4, 8};

void check_accepted(const std::vector<Problem>& problems, uint64_t seed) {
  if (!problems.empty()) {
    testing::report_failure(__FILE__, __LINE__,
                            "seed " + std::to_string(seed) + ":\n" + to_string(problems));
  }
}

TERRAZZO_TEST(random_steps_are_accepted) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    for (const uint32_t world : kWorlds) {
      const TestCase test = testing::random_case(seed * 8 + world, world);
      check_accepted(verify(testing::lower(test), test.shape, test.limits), seed * 8 + world);
    }
  }
}

/// One signal adds at most 255, and `embed` adds all hidden panels at once.
TERRAZZO_TEST(wide_models_are_accepted) {
  for (const uint32_t world : kWorlds) {
    TestCase test = testing::random_case(world, world);
    test.shape.hidden = 16384;
    check_accepted(verify(testing::lower(test), test.shape, test.limits), world);
  }
}

/// A second step of another shape, whose placeholder tokens name rows that the first one samples.
TERRAZZO_TEST(pairs_of_steps_are_accepted) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    for (const uint32_t world : kWorlds) {
      const TestCase test = testing::random_case(seed * 8 + world, world);
      TestCase next = testing::random_case(seed * 8 + world + 1000, world);
      next.shape = test.shape;
      next.limits = test.limits;
      const auto sampled = static_cast<int32_t>(test.arrays.logit_rows.size());
      for (int32_t& token : next.arrays.token_ids) {
        token = token >= 0 || sampled == 0 ? 0 : -1 - (-token - 1) % sampled;
      }
      check_accepted(
          verify_pair(testing::lower(test), testing::lower(next), test.shape, test.limits), seed);
    }
  }
}

TERRAZZO_TEST(tokens_that_no_step_sampled_are_rejected) {
  TestCase test = testing::random_case(3, 2);
  const LoweredStep first = testing::lower(test);
  test.arrays.token_ids[0] = -1 - static_cast<int32_t>(test.arrays.logit_rows.size());
  const auto problems = verify_pair(first, testing::lower(test), test.shape, test.limits);
  CHECK(!problems.empty() && problems[0].kind == ProblemKind::kUnwritten);
}

/// A decode batch that fills three row blocks; row 300 continues a row of the first compact block.
TestCase decode_batch() {
  TestCase test{.shape = {.num_layers = 2,
                          .hidden = 128,
                          .intermediate = 128,
                          .num_heads = 4,
                          .num_kv_heads = 2,
                          .head_dim = 64,
                          .vocab = 300,
                          .norm_eps = 1e-5F,
                          .world = 2,
                          .split_tokens = 64},
                .limits = {.max_rows = 384,
                           .max_sequences = 384,
                           .max_position = 1024,
                           .num_pages = 800,
                           .max_logit_rows = 8,
                           .max_partials = 128},
                .options = {.num_sms = 132},
                .arrays = {}};
  for (int32_t row = 0; row < 310; ++row) {
    test.arrays.add_sequence(1, row == 5 ? 1000 : 70);
    test.arrays.add_logit_row(row, 1.0F, row % 100 == 0 ? 3 : 0, false);
  }
  test.arrays.assign_pages(testing::ascending_pages(test.limits.num_pages));
  test.arrays.token_ids[300] = -1 - 2;
  return test;
}

using Spoil = std::function<void(LoweredStep&)>;

/// Spoils the step and expects exactly this kind of problem among those found.
void check_rejected(const Spoil& spoil, ProblemKind kind, const char* part,
                    bool o_sharded = false) {
  TestCase test = decode_batch();
  if (o_sharded) {
    test.shape.o_sharded = true;
    test.shape.hidden = 512;  // several tiles wait for a counter: one may forget to
  }
  LoweredStep step = testing::lower(test);
  check_accepted(verify(step, test.shape, test.limits), 0);
  spoil(step);
  const auto problems = verify(step, test.shape, test.limits);
  const bool found = std::any_of(problems.begin(), problems.end(), [&](const Problem& problem) {
    return problem.kind == kind && problem.text.find(part) != std::string::npos;
  });
  if (!found) {
    testing::report_failure(__FILE__, __LINE__,
                            "expected '" + std::string(part) + "', got:\n" + to_string(problems));
  }
}

Instruction& first_of(LoweredStep& step, uint32_t gpu, Opcode opcode) {
  for (auto& segment : step.gpus[gpu].segments) {
    for (Instruction& instruction : segment) {
      if (instruction.opcode == opcode) {
        return instruction;
      }
    }
  }
  throw std::runtime_error(std::string("no ") + opcode_name(opcode));
}

void for_each_of(LoweredStep& step, Opcode opcode, const std::function<void(Instruction&)>& visit) {
  for (GpuProgram& program : step.gpus) {
    for (auto& segment : program.segments) {
      for (Instruction& instruction : segment) {
        if (instruction.opcode == opcode) {
          visit(instruction);
        }
      }
    }
  }
}

TERRAZZO_TEST(each_kind_of_problem_is_found) {
  check_rejected([](LoweredStep& s) { first_of(s, 1, Opcode::kOProjResidual).waits[0].target--; },
                 ProblemKind::kTarget, "waits for A[1]");
  check_rejected([](LoweredStep& s) { first_of(s, 0, Opcode::kGateUpSilu).waits[0] = {}; },
                 ProblemKind::kRace, "gate_up_silu");
  check_rejected([](LoweredStep& s) { first_of(s, 0, Opcode::kQkvRopeAppend).waits[0] = {}; },
                 ProblemKind::kRace, "of gpu 0");
  check_rejected([](LoweredStep& s) { first_of(s, 0, Opcode::kAttendMerge).waits[0] = {}; },
                 ProblemKind::kUnawaited, "M[0] (gpu 0, layer 0)");
  check_rejected([](LoweredStep& s) { first_of(s, 0, Opcode::kEmbed).signals[0].gpus = 6; },
                 ProblemKind::kCounter, "GPU mask 6");
  check_rejected([](LoweredStep& s) { first_of(s, 0, Opcode::kEmbed).args.embed.row_block = 3; },
                 ProblemKind::kOperands, "row_block: expected below 3, got 3");
  check_rejected([](LoweredStep& s) { s.rows[7].append_page++; }, ProblemKind::kTables,
                 "append_page");
  check_rejected([](LoweredStep& s) { first_of(s, 0, Opcode::kStepEnd).waits[1] = {}; },
                 ProblemKind::kUnawaited, "SAMPLED[0] (gpu 0");
  check_rejected(
      [](LoweredStep& s) {
        auto& epilogue = s.gpus[1].segment(Segment::kEpilogue);
        epilogue.insert(epilogue.begin(), Instruction{});
      },
      ProblemKind::kEnd, "expected one step_end, at the queue's end");
  check_rejected(
      [](LoweredStep& s) {
        Signal& signal = first_of(s, 0, Opcode::kLmHead).signals[0];
        for (Instruction& instruction : s.gpus[0].segment(Segment::kEpilogue)) {
          Wait& wait = instruction.waits[0];
          if (instruction.opcode == Opcode::kSample && wait.first == signal.first) {
            wait.target -= kNumConsumers * signal.increment;
          }
        }
        signal = {};
      },
      ProblemKind::kEnd, "lm_head) may still run when step_end signals");
  check_rejected(
      [](LoweredStep& s) {
        auto& body = s.gpus[1].segment(Segment::kBody);
        std::rotate(body.begin(), body.end() - 1, body.end());
      },
      ProblemKind::kDeadlock, "gpu 1, queue 3 (layer 0, reduce_residual) waits for PART[");
}

/// O's and down's partial sums share a buffer.
TERRAZZO_TEST(problems_of_a_sharded_o_are_found) {
  constexpr bool kSharded = true;
  check_rejected([](LoweredStep& s) { first_of(s, 1, Opcode::kOPartial).waits[0].target--; },
                 ProblemKind::kTarget, "waits for A[1]", kSharded);
  check_rejected([](LoweredStep& s) { first_of(s, 0, Opcode::kOPartial).waits[0] = {}; },
                 ProblemKind::kRace, "o_partial", kSharded);
  check_rejected([](LoweredStep& s) { first_of(s, 0, Opcode::kReduceO).waits[0] = {}; },
                 ProblemKind::kRace, "reduce_o", kSharded);
  check_rejected([](LoweredStep& s) { first_of(s, 1, Opcode::kReduceO).waits[0].target -= 2; },
                 ProblemKind::kTarget, "waits for PART_O[", kSharded);
  // Sums of down that come before the owner has read those of O.
  check_rejected([](LoweredStep& s) { first_of(s, 1, Opcode::kDownPartial).waits[0] = {}; },
                 ProblemKind::kRace, "reduce_o): partials of gpu 1", kSharded);
  check_rejected(
      [](LoweredStep& s) { first_of(s, 0, Opcode::kReduceO).opcode = Opcode::kReduceResidual; },
      ProblemKind::kUnwritten, "reads bytes that nothing wrote in x1", kSharded);
  check_rejected(
      [](LoweredStep& s) {
        for_each_of(s, Opcode::kReduceO,
                    [](Instruction& instruction) { instruction.signals[0].gpus = 1; });
      },
      ProblemKind::kTarget, "waits for X1[", kSharded);
  check_rejected(
      [](LoweredStep& s) { first_of(s, 0, Opcode::kOPartial).opcode = Opcode::kOProjResidual; },
      ProblemKind::kOperands, "O sharded: expected 0, got 1", kSharded);
  check_rejected(
      [](LoweredStep& s) { first_of(s, 0, Opcode::kAttendMerge).args.attend_merge.kv_head = 1; },
      ProblemKind::kOperands, "kv_head: expected below 1, got 1", kSharded);
  check_rejected(
      [](LoweredStep& s) { first_of(s, 0, Opcode::kDownPartial).opcode = Opcode::kOPartial; },
      ProblemKind::kOperands, "O sharded: expected 1, got 0");
}

TERRAZZO_TEST(sampling_waits_for_readers_of_the_last_step) {
  check_rejected(
      [](LoweredStep& s) {
        for_each_of(s, Opcode::kSample,
                    [](Instruction& instruction) { instruction.waits[1] = {}; });
      },
      ProblemKind::kRace,
      "may write before or while it is read by gpu 0, queue 2 (layer -1, embed)");
}

TERRAZZO_TEST(context_of_others_is_not_overwritten) {
  // Row 3 appends where row 4 keeps its context.
  check_rejected(
      [](LoweredStep& s) {
        const uint32_t page = s.page_ids[s.rows[4].page_table_offset];
        s.page_ids[s.rows[3].page_table_offset + 1] = page;
        s.rows[3].append_page = page;
      },
      ProblemKind::kHistory, "overwrites cached tokens");
}

/// What the verifier may say about each kind of mutation.
const std::set<ProblemKind> kExpected[kNumMutationKinds] = {
    {ProblemKind::kRace, ProblemKind::kUnawaited, ProblemKind::kUnwritten, ProblemKind::kEnd},
    {ProblemKind::kTarget},
    {ProblemKind::kTarget},
    {ProblemKind::kTarget},
    {ProblemKind::kDeadlock},
    {ProblemKind::kRace, ProblemKind::kOperands, ProblemKind::kUnwritten},
    {ProblemKind::kTarget, ProblemKind::kUnawaited},
};

TERRAZZO_TEST(harmful_mutations_are_rejected) {
  uint32_t num_rejected = 0;
  uint32_t num_by_kind[kNumMutationKinds] = {};
  for (uint64_t seed = 0; seed < 250; ++seed) {
    for (const uint32_t world : kWorlds) {
      const TestCase test = testing::random_case(seed * 8 + world, world);
      const auto mutation = mutate(testing::lower(test), seed);
      if (!mutation) {
        continue;
      }
      const auto problems = verify(mutation->step, test.shape, test.limits);
      const auto kind = static_cast<uint32_t>(mutation->kind);
      if (problems.empty()) {
        // The wait was implied by others: the accesses are still all ordered.
        CHECK_EQ(mutation->kind, MutationKind::kDropWait);
        std::printf("accepted: world %u, seed %llu, %s\n", world,
                    static_cast<unsigned long long>(seed), mutation->description.c_str());
        continue;
      }
      ++num_rejected;
      ++num_by_kind[kind];
      if (!kExpected[kind].contains(problems[0].kind)) {
        testing::report_failure(__FILE__, __LINE__,
                                mutation->description + "\n" + to_string(problems));
      }
    }
  }
  CHECK(num_rejected >= 500);
  for (uint32_t kind = 0; kind < kNumMutationKinds; ++kind) {
    std::printf("rejected %4u: %s\n", num_by_kind[kind], kMutationNames[kind]);
    CHECK(num_by_kind[kind] >= 50);
  }
}

}  // namespace
}  // namespace terrazzo
