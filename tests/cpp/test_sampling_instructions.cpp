// gather_norm, lm_head and sample on the host machine: programs without layers, so that the
// residual rows are the embeddings, against references for every buffer on the way.
#include <cmath>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "check.hpp"
#include "lower/lower.hpp"
#include "lower/steps.hpp"
#include "machine/host/host_machine.hpp"
#include "sampling_reference.hpp"

namespace {

using namespace terrazzo;
using namespace terrazzo::testing;

struct Case {
  uint32_t hidden;
  uint32_t vocab;
  uint32_t world;
  uint32_t rows;        // of the step, in sequences of up to 7 rows
  uint32_t logit_rows;  // at most
  uint32_t seed;
};

/// Weights of a model without layers, as the machine reads them.
class Weights {
 public:
  Weights(const ModelShape& shape, std::mt19937& random) : shape_(shape) {
    const uint32_t width = shape.hidden_panels() * kPanelCols;
    std::normal_distribution<float> normal(0.0F, 1.0F);
    embedding_.resize(uint64_t{shape.vocab} * width);
    head_.resize(uint64_t{shape.vocab} * width);
    norm_.resize(width);
    for (uint32_t col = 0; col < shape.hidden; ++col) {
      norm_[col] = to_bf16(1.0F + 0.2F * normal(random));
      for (uint64_t id = 0; id < shape.vocab; ++id) {
        embedding_[id * width + col] = to_bf16(normal(random));
        head_[id * width + col] =
            to_bf16(3.0F * normal(random) / std::sqrt(static_cast<float>(shape.hidden)));
      }
    }
    for (uint32_t gpu = 0; gpu < shape.world; ++gpu) {
      pack(gpu);
    }
  }

  ModelView view(uint32_t gpu) const {
    ModelView view{};
    view.matrices[static_cast<uint32_t>(Matrix::kLmHead)] = head_view(gpu);
    view.embedding = embedding_.data();
    view.final_norm = norm_.data();
    return view;
  }
  float embedding(uint32_t id, uint32_t col) const { return to_float(embedding_[index(id, col)]); }
  float head(uint32_t id, uint32_t col) const { return to_float(head_[index(id, col)]); }
  float norm(uint32_t col) const { return to_float(norm_[col]); }

 private:
  uint64_t index(uint64_t id, uint32_t col) const {
    return id * shape_.hidden_panels() * kPanelCols + col;
  }
  WeightView head_view(uint32_t gpu) const {
    return {packed_[gpu].data(), 0, shape_.vocab_panels(), shape_.hidden_panels()};
  }
  void pack(uint32_t gpu) {
    packed_.emplace_back(uint64_t{shape_.vocab_panels()} * shape_.hidden_panels() *
                         kHalfPanelBytes);
    const WeightView view = head_view(gpu);
    for (uint32_t out = 0; out < shape_.vocab_panels() * kPanelCols; ++out) {
      const uint32_t id = gpu * shape_.vocab_panels() * kPanelCols + out;
      for (uint32_t col = 0; col < shape_.hidden && id < shape_.vocab; ++col) {
        const std::byte* const tile = view.at(0, out / kPanelCols, col / kPanelCols);
        std::memcpy(
            const_cast<std::byte*>(tile) + element_offset(out % kPanelCols, col % kPanelCols),
            &head_[index(id, col)], sizeof(bf16));
      }
    }
  }

  ModelShape shape_;
  std::vector<bf16> embedding_;
  std::vector<bf16> head_;
  std::vector<bf16> norm_;
  std::vector<std::vector<std::byte>> packed_;
};

ModelShape shape_of(const Case& test) {
  return {.num_layers = 1,
          .hidden = test.hidden,
          .intermediate = 64,
          .num_heads = 8,
          .num_kv_heads = 8,
          .head_dim = 64,
          .vocab = test.vocab,
          .norm_eps = 1e-5F,
          .world = test.world,
          .split_tokens = 64};
}

constexpr StepLimits kLimits{.max_rows = 512,
                             .max_sequences = 256,
                             .max_position = 64,
                             .num_pages = 256,
                             .max_logit_rows = 256,
                             .max_partials = 0};

StepArrays arrays_of(const Case& test, std::mt19937& random) {
  StepArrays arrays;
  int32_t row = 0;
  for (auto left = static_cast<int32_t>(test.rows); left > 0;) {
    const int32_t rows = std::min(left, random() % 2 == 0 ? 1 : static_cast<int32_t>(random() % 7));
    if (rows == 0 || arrays.seq_lens.size() == kLimits.max_sequences - 1) {
      continue;
    }
    arrays.add_sequence(rows, 0);
    left -= rows;
    row += rows;
    if (arrays.logit_rows.size() < test.logit_rows && random() % 8 != 0) {
      arrays.add_logit_row(row - 1, 0.0F, 0, random() % 4 == 0);
      const uint32_t kind = random() % 5;
      arrays.temperature.back() = kind == 0 ? 0.0F : 0.1F * static_cast<float>(1 + random() % 15);
      arrays.top_k.back() = kind == 2 || kind == 4 ? 1 + static_cast<int32_t>(random() % 60) : 0;
      arrays.top_p.back() = kind >= 3 ? 0.01F * static_cast<float>(1 + random() % 99) : 1.0F;
      arrays.seed.back() = random();
      arrays.output_position.back() = static_cast<int32_t>(random() % 100);
    }
  }
  for (int32_t& token : arrays.token_ids) {
    token = static_cast<int32_t>(random() % test.vocab);
  }
  arrays.assign_pages(ascending_pages(kLimits.num_pages));
  return arrays;
}

LoweredStep without_layers(const StepArrays& arrays, const ModelShape& shape) {
  LoweredStep step = lower(arrays.request(), shape, kLimits, {});
  for (GpuProgram& program : step.gpus) {
    program.segment(Segment::kBody).clear();
  }
  step.num_layers = 0;
  return step;
}

/// Reads the machine's buffers after a step.
class Inspector {
 public:
  Inspector(host::HostMachine& machine) : machine_(machine), shape_(machine.shape()) {}

  float compact(uint32_t gpu, uint32_t row, uint32_t col) {
    const uint64_t tile = uint64_t{row / kRowBlock} * shape_.hidden_panels() + col / kPanelCols;
    return to_float(
        value<bf16>(gpu, Buffer::kCompact,
                    tile * kPanelBytes + element_offset(row % kRowBlock, col % kPanelCols)));
  }
  float logit(uint32_t owner, uint32_t slot, uint32_t id) {
    const uint64_t row_bytes =
        uint64_t{shape_.world} * shape_.vocab_panels() * kPanelCols * sizeof(float);
    return value<float>(owner, Buffer::kLogits, slot * row_bytes + id * sizeof(float));
  }
  SampledToken sampled(uint32_t gpu, uint32_t row) {
    return value<SampledToken>(gpu, Buffer::kSampled, row * sizeof(SampledToken));
  }

 private:
  template <class T>
  T value(uint32_t gpu, Buffer buffer, uint64_t offset) {
    T out;
    std::memcpy(&out, machine_.heap(gpu) + machine_.layout().at(buffer) + offset, sizeof out);
    return out;
  }

  host::HostMachine& machine_;
  const ModelShape& shape_;
};

/// RMS norm in double. Rounding to bf16 once allows half a unit in the last place, plus fp32 error.
void check_compact(Inspector& see, const LoweredStep& step, const ModelShape& shape,
                   const Weights& weights) {
  for (uint32_t i = 0; i < step.logit_rows.size(); ++i) {
    const auto token = static_cast<uint32_t>(step.rows[step.logit_rows[i].row].token);
    double squares = 0;
    for (uint32_t col = 0; col < shape.hidden; ++col) {
      const double x = double{weights.embedding(token, col)};
      squares += x * x;
    }
    const double rstd = 1 / std::sqrt(squares / shape.hidden + double{shape.norm_eps});
    for (uint32_t gpu = 0; gpu < shape.world; ++gpu) {
      for (uint32_t col = 0; col < shape.hidden_panels() * kPanelCols; ++col) {
        const double expected = col < shape.hidden ? double{weights.embedding(token, col)} * rstd *
                                                         double{weights.norm(col)}
                                                   : 0.0;
        CHECK_NEAR(see.compact(gpu, i, col), expected, std::abs(expected) * 0x1.01p-8);
      }
    }
  }
}

/// Logits of compact row `i`: one fma at a time, as every tile shape must have them.
std::vector<float> logits_of(Inspector& see, const ModelShape& shape, const Weights& weights,
                             uint32_t i) {
  std::vector<float> x(shape.hidden);
  for (uint32_t col = 0; col < shape.hidden; ++col) {
    x[col] = see.compact(0, i, col);
  }
  std::vector<float> logits(shape.vocab);
  for (uint32_t id = 0; id < shape.vocab; ++id) {
    for (uint32_t col = 0; col < shape.hidden; ++col) {
      logits[id] = std::fma(x[col], weights.head(id, col), logits[id]);
    }
  }
  return logits;
}

void check_tokens(Inspector& see, const LoweredStep& step, const ModelShape& shape,
                  const Weights& weights) {
  for (uint32_t i = 0; i < step.logit_rows.size(); ++i) {
    const LogitInfo& info = step.logit_rows[i];
    const std::vector<float> logits = logits_of(see, shape, weights, i);
    if (info.logits_slot != kNoLogits) {
      uint32_t wrong = 0;
      for (uint32_t id = 0; id < shape.vocab; ++id) {
        wrong += see.logit(shape.owner(i / kRowBlock), info.logits_slot, id) != logits[id] ? 1 : 0;
      }
      CHECK_EQ(wrong, 0U);
    }
    const uint32_t expected = reference_token(logits, info);
    for (uint32_t gpu = 0; gpu < shape.world; ++gpu) {
      const SampledToken seen = see.sampled(gpu, i);
      CHECK(expected == kNoToken || static_cast<uint32_t>(seen.token) == expected);
      CHECK_NEAR(seen.logprob, log_softmax(logits, static_cast<uint32_t>(seen.token)),
                 kLogprobTolerance);
    }
  }
}

constexpr Case kCases[] = {
    {64, 1000, 1, 3, 3, 1},       // small tiles
    {80, 777, 1, 64, 64, 2},      // padded hidden columns and vocabulary; exactly a small tile
    {192, 3000, 2, 100, 100, 3},  // plain tiles
    {128, 5, 4, 40, 40, 4},       // GPUs without a vocabulary of their own
    {64, 600, 8, 300, 256, 5},    // two compact blocks, two owners
    {1088, 300, 2, 150, 90, 6},   // several slots of sums
    {64, 9001, 2, 5, 5, 7},       // several slots of logits
};

TERRAZZO_TEST(every_buffer_is_right_under_the_adversary) {
  for (const Case& test : kCases) {
    std::mt19937 random(test.seed);
    const ModelShape shape = shape_of(test);
    const Weights weights(shape, random);
    host::HostMachine machine(shape, kLimits, {.num_sms = 2});
    for (uint32_t gpu = 0; gpu < shape.world; ++gpu) {
      machine.set_model(gpu, weights.view(gpu));
    }
    for (uint64_t seed = 0; seed < 2; ++seed) {
      const LoweredStep step = without_layers(arrays_of(test, random), shape);
      machine.run_checked(step,
                          {.seed = seed,
                           .lateness = seed == 0 ? host::Lateness::kRandom : host::Lateness::kLate,
                           .faults = {}});
      Inspector see(machine);
      check_compact(see, step, shape, weights);
      check_tokens(see, step, shape, weights);
    }
  }
}

TERRAZZO_TEST(candidates_of_a_row_may_fill_several_slots) {
  const Case test{16, 140000, 1, 3, 3, 8};
  std::mt19937 random(test.seed);
  const ModelShape shape = shape_of(test);
  const Weights weights(shape, random);
  host::HostMachine machine(shape, kLimits, {.num_sms = 2});
  machine.set_model(0, weights.view(0));
  const LoweredStep step = without_layers(arrays_of(test, random), shape);
  machine.run(step);
  Inspector see(machine);
  check_tokens(see, step, shape, weights);
}

TERRAZZO_TEST(a_row_has_the_same_bits_alone_and_in_a_batch) {
  const Case test{192, 3000, 2, 400, 150, 9};
  std::mt19937 random(test.seed);
  const ModelShape shape = shape_of(test);
  const Weights weights(shape, random);
  host::HostMachine machine(shape, kLimits, {.num_sms = 3});
  for (uint32_t gpu = 0; gpu < shape.world; ++gpu) {
    machine.set_model(gpu, weights.view(gpu));
  }
  const StepArrays batch = arrays_of(test, random);
  machine.run(without_layers(batch, shape));
  std::vector<SampledToken> together;
  Inspector see(machine);
  for (uint32_t i = 0; i < batch.logit_rows.size(); ++i) {
    together.push_back(see.sampled(0, i));
  }
  CHECK(together.size() > kRowBlock);
  for (uint32_t i = 0; i < batch.logit_rows.size(); i += 11) {
    StepArrays alone;
    alone.add_sequence(1, 0);
    alone.token_ids[0] = batch.token_ids[static_cast<uint32_t>(batch.logit_rows[i])];
    alone.add_logit_row(0, batch.temperature[i], batch.top_k[i], false);
    alone.top_p[0] = batch.top_p[i];
    alone.seed[0] = batch.seed[i];
    alone.output_position[0] = batch.output_position[i];
    alone.assign_pages(ascending_pages(1));
    machine.run(without_layers(alone, shape));
    const SampledToken seen = see.sampled(1, 0);
    CHECK_EQ(seen.token, together[i].token);
    CHECK_EQ(seen.logprob, together[i].logprob);
  }
}

}  // namespace
