// O sharded by its input columns: the residual after attention is what the sums say, and what a
// replicated O gives, but for rounding.
#include <cmath>
#include <cstring>

#include "check.hpp"
#include "host/session.hpp"

namespace terrazzo::testing {
namespace {

constexpr StepLimits kLimits{.max_rows = 300,
                             .max_sequences = 12,
                             .max_position = 256,
                             .num_pages = 40,
                             .max_logit_rows = 12,
                             .max_partials = 256};
constexpr double kBf16Rounding = 0x1p-8;  // twice half a unit in the last place: fp32 sums too

ModelShape sharded_shape(uint64_t seed, uint32_t world) {
  Random random(seed);
  ModelShape shape = tiny_shape(random, world);
  shape.o_sharded = true;
  return shape;
}

/// Prompts without context: three row blocks, whose owners are several GPUs.
StepArrays prompts(Random& random, const ModelShape& shape) {
  StepArrays arrays;
  int32_t row = 0;
  for (const int32_t length : {1, 130, 2, 160}) {
    arrays.add_sequence(length, 0);
    row += length;
    arrays.add_logit_row(row - 1, 0.0F, 0, true);
  }
  arrays.assign_pages(ascending_pages(kLimits.num_pages));
  for (int32_t& token : arrays.token_ids) {
    token = random.range(0, static_cast<int32_t>(shape.vocab) - 1);
  }
  return arrays;
}

/// A machine with a model on it, that has run a step.
struct Ran {
  Ran(const ModelShape& shape, uint64_t seed, const StepArrays& arrays)
      : model(shape, kLimits.max_position, seed), machine(shape, kLimits, {.num_sms = 2}) {
    model.attach(machine);
    const LoweredStep step = lower(arrays.request(), shape, kLimits, {.num_sms = 132});
    rows = static_cast<uint32_t>(step.rows.size());
    machine.run(step);
  }

  /// Element of a row-block buffer with `panels` panels a block.
  double at(uint32_t gpu, Buffer buffer, uint32_t panels, uint32_t row, uint32_t col) {
    const uint64_t tile = uint64_t{row / kRowBlock} * panels + col / kPanelCols;
    bf16 value{};
    std::memcpy(&value,
                machine.heap(gpu) + machine.layout().at(buffer) + tile * kPanelBytes +
                    element_offset(row % kRowBlock, col % kPanelCols),
                sizeof(value));
    return to_float(value);
  }

  TestModel model;
  host::HostMachine machine;
  uint32_t rows;
};

/// x1 of the only layer against sums in double; `turned` takes each GPU for its neighbour. Returns
/// how many elements are off by more than rounding explains.
uint64_t wrong_elements(Ran& ran, const StepArrays& arrays, uint32_t turned) {
  const ModelShape& shape = ran.model.shape();
  const uint32_t own = shape.local_heads() * shape.head_dim;
  const uint32_t all = own * shape.world;
  const std::vector<bf16>& o = ran.model.o(0);
  const uint32_t width = shape.hidden_panels() * kPanelCols;
  uint64_t wrong = 0;
  std::vector<double> attention(all);
  for (uint32_t row = 0; row < ran.rows; ++row) {
    for (uint32_t k = 0; k < all; ++k) {
      const uint32_t gpu = (k / own + turned) % shape.world;
      attention[k] = ran.at(gpu, Buffer::kAttention, shape.attention_panels(), row, k % own);
    }
    const auto token = static_cast<uint64_t>(arrays.token_ids[row]);
    for (uint32_t col = 0; col < shape.hidden; ++col) {
      double sum = to_float(ran.model.tables().embedding[token * width + col]);
      double rounded = 0;
      for (uint32_t gpu = 0; gpu < shape.world; ++gpu) {
        double partial = 0;
        for (uint32_t k = gpu * own; k < (gpu + 1) * own; ++k) {
          partial += attention[k] * to_float(o[uint64_t{col} * all + k]);
        }
        sum += partial;
        rounded += std::abs(partial);
      }
      const double tolerance = kBf16Rounding * (rounded + std::abs(sum));
      for (uint32_t gpu = 0; gpu < shape.world; ++gpu) {
        const double seen = ran.at(gpu, Buffer::kX1, shape.hidden_panels(), row, col);
        wrong += std::abs(seen - sum) <= tolerance ? 0 : 1;
      }
    }
  }
  return wrong;
}

TERRAZZO_TEST(x1_is_the_sum_over_all_heads) {
  for (const uint64_t seed : seeds_to_run(40, 3)) {
    for (const uint32_t world : {2U, 4U, 8U}) {
      ModelShape shape = sharded_shape(seed, world);
      shape.num_layers = 1;  // so that x before it is the embedding
      Random random(seed);
      const StepArrays arrays = prompts(random, shape);
      Ran ran(shape, seed, arrays);
      CHECK_EQ(wrong_elements(ran, arrays, 0), uint64_t{0});
      CHECK(wrong_elements(ran, arrays, 1) > ran.rows);
    }
  }
}

/// Distance of all rows' residual after the last layer, relative to its norm.
double relative_distance(Ran& seen, Ran& expected) {
  const ModelShape& shape = seen.model.shape();
  double difference = 0;
  double norm = 0;
  for (uint32_t row = 0; row < seen.rows; ++row) {
    for (uint32_t col = 0; col < shape.hidden; ++col) {
      const double a = seen.at(0, Buffer::kX, shape.hidden_panels(), row, col);
      const double b = expected.at(0, Buffer::kX, shape.hidden_panels(), row, col);
      difference += (a - b) * (a - b);
      norm += b * b;
    }
  }
  return std::sqrt(difference / norm);
}

TERRAZZO_TEST(sharded_and_replicated_differ_by_rounding) {
  for (const uint64_t seed : seeds_to_run(50, 4)) {
    for (const uint32_t world : {2U, 4U, 8U}) {
      const ModelShape shape = sharded_shape(seed, world);
      ModelShape whole = shape;
      whole.o_sharded = false;
      Random random(seed);
      const StepArrays arrays = prompts(random, shape);
      Ran sharded(shape, seed, arrays);
      Ran replicated(whole, seed, arrays);
      Ran other(whole, seed + 1, arrays);
      // A layer rounds x1, x and what lies between a few times.
      const double bound = kBf16Rounding * std::sqrt(8.0 * shape.num_layers);
      CHECK(relative_distance(sharded, replicated) < bound);
      CHECK(relative_distance(other, replicated) > 0.5);
    }
  }
}

}  // namespace
}  // namespace terrazzo::testing
