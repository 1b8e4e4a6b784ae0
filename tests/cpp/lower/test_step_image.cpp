// A step as one run of bytes: what a device finds there is what was lowered.
#include <cstring>
#include <vector>

#include "check.hpp"
#include "lower/steps.hpp"
#include "machine/step_image.hpp"

namespace terrazzo {
namespace {

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

template <class T>
void check_same(const T* seen, const T* expected, size_t count) {
  CHECK(seen != expected);
  CHECK(std::memcmp(seen, expected, count * sizeof(T)) == 0);
}

TERRAZZO_TEST(the_image_holds_the_step) {
  testing::StepArrays arrays;
  arrays.add_sequence(1, 300);
  arrays.add_sequence(140, 10);
  arrays.assign_pages(testing::ascending_pages(kLimits.num_pages));
  arrays.add_logit_row(140, 0.0F, 0, true);
  const LoweredStep step = lower(arrays.request(), kShape, kLimits);
  for (uint32_t gpu = 0; gpu < kShape.world; ++gpu) {
    const StepImage image(step, gpu);
    constexpr std::byte kGuard{0xa5};
    std::vector<std::byte> bytes(image.bytes() + 64, kGuard);
    image.copy_to(bytes.data());
    const ProgramView expected = step.view(gpu);
    const ProgramView program = image.program_at(bytes.data());
    CHECK_EQ(program.queue_size(), expected.queue_size());
    CHECK_EQ(program.counters_per_block, expected.counters_per_block);
    check_same(program.prologue, expected.prologue, expected.prologue_size);
    check_same(program.body, expected.body, expected.body_size);
    check_same(program.epilogue, expected.epilogue, expected.epilogue_size);
    const StepTables tables = image.tables_at(bytes.data());
    CHECK_EQ(tables.num_rows, 141u);
    CHECK_EQ(tables.num_logit_rows, 1u);
    check_same(tables.rows, step.rows.data(), step.rows.size());
    check_same(tables.logit_rows, step.logit_rows.data(), step.logit_rows.size());
    check_same(tables.page_ids, step.page_ids.data(), step.page_ids.size());
    for (size_t i = image.bytes(); i < bytes.size(); ++i) {
      CHECK(bytes[i] == kGuard);
    }
  }
}

TERRAZZO_TEST(a_step_without_logit_rows) {
  testing::StepArrays arrays;
  arrays.add_sequence(5, 0);
  arrays.assign_pages(testing::ascending_pages(kLimits.num_pages));
  const LoweredStep step = lower(arrays.request(), kShape, kLimits);
  const StepImage image(step, 0);
  std::vector<std::byte> bytes(image.bytes());
  image.copy_to(bytes.data());
  CHECK_EQ(image.tables_at(bytes.data()).num_logit_rows, 0u);
  check_same(image.tables_at(bytes.data()).rows, step.rows.data(), step.rows.size());
}

}  // namespace
}  // namespace terrazzo
