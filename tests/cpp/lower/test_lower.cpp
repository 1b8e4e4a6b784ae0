// The lowering: bad requests are refused by name, programs have the expected parts.
#include <cstring>
#include <functional>
#include <map>

#include "check.hpp"
#include "lower/steps.hpp"

namespace terrazzo {
namespace {

using testing::StepArrays;
using testing::TestCase;

constexpr ModelShape kShape{.num_layers = 2,
                            .hidden = 256,
                            .intermediate = 512,
                            .num_heads = 8,
                            .num_kv_heads = 4,
                            .head_dim = 64,
                            .vocab = 1000,
                            .norm_eps = 1e-5F,
                            .world = 2,
                            .split_tokens = 128};
constexpr StepLimits kLimits{.max_rows = 512,
                             .max_sequences = 16,
                             .max_position = 1024,
                             .num_pages = 64,
                             .max_logit_rows = 4,
                             .max_partials = 256};

/// A decode row at context 300 and a prompt of 140 rows; both are sampled.
StepArrays two_sequences() {
  StepArrays arrays;
  arrays.add_sequence(1, 300);
  arrays.add_sequence(140, 10);
  arrays.assign_pages(testing::ascending_pages(kLimits.num_pages));
  arrays.add_logit_row(0, 0.8F, 5, false);
  arrays.add_logit_row(140, 0.0F, 0, true);
  return arrays;
}

void check_refused(const std::function<void(StepArrays&)>& spoil, const char* message) {
  StepArrays arrays = two_sequences();
  spoil(arrays);
  CHECK_THROWS(lower(arrays.request(), kShape, kLimits), message);
}

std::map<Opcode, uint32_t> count_opcodes(const std::vector<Instruction>& instructions) {
  std::map<Opcode, uint32_t> counts;
  for (const Instruction& instruction : instructions) {
    ++counts[instruction.opcode];
  }
  return counts;
}

TERRAZZO_TEST(bad_requests_are_refused_by_name) {
  check_refused([](StepArrays& a) { a.context_lens[1] = 1000; }, "at most 1024 tokens, got 1000");
  check_refused([](StepArrays& a) { a.seq_lens[1] = 139; }, "sum(seq_lens) = 141 rows, got 140");
  check_refused([](StepArrays& a) { a.seq_lens[0] = 0; }, "expected seq_len >= 1, got 0");
  check_refused([](StepArrays& a) { a.context_lens[0] = -1; }, "context_len >= 0, got -1");
  check_refused([](StepArrays& a) { a.context_lens[0] = 320; }, "6 to 16 pages for 321 tokens");
  check_refused([](StepArrays& a) { a.page_ids[2] = 64; }, "a page in [0, 64), got 64");
  check_refused([](StepArrays& a) { a.page_ids[4] = a.page_ids[5]; }, "is written in this step");
  check_refused([](StepArrays& a) { a.page_ids[0] = a.page_ids[5]; }, "of its context is written");
  check_refused([](StepArrays& a) { a.page_indptr.pop_back(); }, "page_indptr: expected 3");
  check_refused([](StepArrays& a) { a.token_ids[3] = 1000; }, "a token in [-16, 1000), got 1000");
  check_refused([](StepArrays& a) { a.token_ids[3] = -17; }, "got -17");
  check_refused([](StepArrays& a) { a.logit_rows[1] = 0; }, "ascending rows below 141, got 0");
  check_refused([](StepArrays& a) { a.logit_rows[1] = 141; }, "got 141");
  check_refused([](StepArrays& a) { a.temperature[0] = -1.0F; }, "temperature finite and >= 0");
  check_refused([](StepArrays& a) { a.top_k[0] = -1; }, "top_k >= 0, got -1");
  check_refused([](StepArrays& a) { a.top_p[0] = 0.0F; }, "top_p in (0, 1], got 0");
  check_refused([](StepArrays& a) { a.output_position[0] = -2; }, "output_position >= 0, got -2");
  check_refused([](StepArrays& a) { a.top_p.pop_back(); }, "top_p: expected 2 values, got 1");
  check_refused([](StepArrays& a) { a = StepArrays{}; }, "at least one sequence");
}

TERRAZZO_TEST(limits_are_checked) {
  const StepArrays arrays = two_sequences();
  const auto lower_with = [&](uint32_t StepLimits::* member, uint32_t value) {
    StepLimits limits = kLimits;
    limits.*member = value;
    return lower(arrays.request(), kShape, limits);
  };
  CHECK_THROWS(lower_with(&StepLimits::max_rows, 140), "at most 140 rows, got 141");
  CHECK_THROWS(lower_with(&StepLimits::max_sequences, 1), "at most 1 sequences, got 2");
  CHECK_THROWS(lower_with(&StepLimits::max_logit_rows, 1), "at most 1 rows that want logits");
}

TERRAZZO_TEST(bad_shapes_are_refused_by_name) {
  const StepArrays arrays = two_sequences();
  const auto lower_with = [&](uint32_t ModelShape::* member, uint32_t value) {
    ModelShape shape = kShape;
    shape.*member = value;
    return lower(arrays.request(), shape, kLimits);
  };
  CHECK_THROWS(lower_with(&ModelShape::world, 3), "degrees that can: 1, 2, 4");
  CHECK_THROWS(lower_with(&ModelShape::head_dim, 96), "head dimension 64 or 128, got 96");
  CHECK_THROWS(lower_with(&ModelShape::num_heads, 6), "got 6 and 4");
  CHECK_THROWS(lower_with(&ModelShape::num_heads, 4 * 65),
               "at most 64 heads for each KV head, got 65");
  CHECK_THROWS(lower_with(&ModelShape::split_tokens, 100), "multiple of 64, got 100");
  CHECK_THROWS(lower_with(&ModelShape::hidden, 40000), "at most 32640, got 40000");
  CHECK_THROWS(lower_with(&ModelShape::num_layers, 0), "above 0");
  ModelShape alone = kShape;
  alone.world = 1;
  alone.o_sharded = true;
  CHECK_THROWS(lower(arrays.request(), alone, kLimits), "expected more than 1");
}

TERRAZZO_TEST(tables_follow_the_request) {
  const LoweredStep step = lower(two_sequences().request(), kShape, kLimits);
  CHECK_EQ(step.rows.size(), size_t{141});
  CHECK_EQ(step.rows[0].position, 300U);
  CHECK_EQ(step.rows[0].append_page, 4U);
  CHECK_EQ(step.rows[0].flags, uint32_t{kDecodeRow});
  CHECK_EQ(step.rows[1].position, 10U);
  CHECK_EQ(step.rows[1].page_table_offset, 5U);
  CHECK_EQ(step.rows[140].append_page, 7U);
  CHECK_EQ(step.rows[140].flags, 0U);
  CHECK_EQ(step.num_wanted_logits, 1U);
  CHECK_EQ(step.num_logits_slots, 2U);
  CHECK_EQ(step.logit_rows[1].logits_slot, 0U);  // wanted rows come first
  CHECK_EQ(step.logit_rows[0].logits_slot, 1U);
}

TERRAZZO_TEST(programs_have_the_expected_parts) {
  const LoweredStep step = lower(two_sequences().request(), kShape, kLimits, {.num_sms = 1});
  auto body = count_opcodes(step.gpus[1].segment(Segment::kBody));
  // Two row blocks, 8 qkv panels ((2 + 2) x 2 heads), 4 hidden, 8 gate and up panels a GPU.
  CHECK_EQ(body[Opcode::kQkvRopeAppend], 4U);
  CHECK_EQ(body[Opcode::kAttendPrefill], 2U * 4);
  CHECK_EQ(body[Opcode::kAttendDecode], 2U);
  CHECK_EQ(body[Opcode::kOProjResidual], 1U);
  CHECK_EQ(body[Opcode::kGateUpSilu], 4U);
  CHECK_EQ(body[Opcode::kDownPartial], 2U);
  CHECK_EQ(body[Opcode::kReduceResidual], 1U);
  CHECK_EQ(body[Opcode::kDownResidual], 0U);
  auto epilogue = count_opcodes(step.gpus[0].segment(Segment::kEpilogue));
  CHECK_EQ(epilogue[Opcode::kGatherNorm], 1U);
  CHECK_EQ(epilogue[Opcode::kLmHead], 2U);  // 16 panels, 8 a GPU
  CHECK_EQ(epilogue[Opcode::kSample], 1U);
  CHECK_EQ(epilogue[Opcode::kStepEnd], 1U);
  CHECK_EQ(count_opcodes(step.gpus[1].segment(Segment::kEpilogue))[Opcode::kSample], 0U);
}

TERRAZZO_TEST(a_sharded_o_is_as_down) {
  ModelShape shape = kShape;
  shape.o_sharded = true;
  const LoweredStep step = lower(two_sequences().request(), shape, kLimits, {.num_sms = 132});
  for (const GpuProgram& program : step.gpus) {
    auto body = count_opcodes(program.segment(Segment::kBody));
    CHECK_EQ(body[Opcode::kOProjResidual], 0U);
    CHECK_EQ(body[Opcode::kOPartial], body[Opcode::kDownPartial]);
    CHECK_EQ(body[Opcode::kReduceO], 1U);
    // The row that is split is merged where its heads are: not only at its owner.
    CHECK_EQ(body[Opcode::kAttendMerge], shape.local_kv_heads());
    for (const Instruction& instruction : program.segment(Segment::kBody)) {
      if (instruction.opcode == Opcode::kOPartial) {
        CHECK_EQ(instruction.args.gemm.k_panels, shape.local_heads());  // of 64 columns
      }
    }
  }
  const HeapLayout sharded = heap_layout(shape, kLimits);
  const HeapLayout replicated = heap_layout(kShape, kLimits);
  CHECK_EQ(sharded.size(Buffer::kAttention), replicated.size(Buffer::kAttention));
  CHECK_EQ(sharded.size(Buffer::kPartials), replicated.size(Buffer::kPartials));
}

TERRAZZO_TEST(long_rows_are_split_only_where_sms_would_idle) {
  const StepArrays arrays = two_sequences();
  const auto merges = [&](uint32_t num_sms, uint32_t max_partials,
                          const ModelShape& shape = kShape) {
    StepLimits limits = kLimits;
    limits.max_partials = max_partials;
    const LoweredStep step = lower(arrays.request(), shape, limits, {.num_sms = num_sms});
    return count_opcodes(step.gpus[0].segment(Segment::kBody))[Opcode::kAttendMerge];
  };
  CHECK_EQ(merges(1, 256), 0U);
  CHECK_EQ(merges(132, 256), kShape.num_kv_heads);
  CHECK_EQ(merges(132, 11), 0U);  // 3 splits x 4 KV heads need 12 slots
  ModelShape shape = kShape;
  shape.world = 2;
  CHECK_EQ(merges(132, 12, shape), kShape.num_kv_heads);  // by the rows' owner
  CHECK_EQ(merges(132, 11, shape), 0U);
  shape.o_sharded = true;
  CHECK_EQ(merges(132, 6, shape), kShape.num_kv_heads / 2);  // each its own heads'
  CHECK_EQ(merges(132, 5, shape), 0U);
}

TERRAZZO_TEST(counters_fit_the_bank) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    for (const uint32_t world : {1U, 2U, 4U, 8U}) {
      const TestCase test = testing::random_case(seed, world);
      const LoweredStep step = testing::lower(test);
      CHECK(step.counters_per_block() <= max_counters_per_block(test.shape, test.limits));
    }
  }
}

TERRAZZO_TEST(storage_is_reused_without_a_trace) {
  LoweredStep reused;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const TestCase test = testing::random_case(seed, seed % 2 == 0 ? 4 : 1);
    lower_into(reused, test.arrays.request(), test.shape, test.limits, test.options);
    const LoweredStep fresh = testing::lower(test);
    CHECK_EQ(reused.gpus.size(), fresh.gpus.size());
    for (size_t gpu = 0; gpu < fresh.gpus.size(); ++gpu) {
      for (uint32_t s = 0; s < kNumSegments; ++s) {
        const auto& a = reused.gpus[gpu].segments[s];
        const auto& b = fresh.gpus[gpu].segments[s];
        CHECK_EQ(a.size(), b.size());
        CHECK(a.size() == b.size() &&
              std::memcmp(a.data(), b.data(), b.size() * sizeof(Instruction)) == 0);
      }
    }
  }
}

}  // namespace
}  // namespace terrazzo
