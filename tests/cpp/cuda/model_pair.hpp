// The same model on the host machine and on the CUDA machine, for tests on the fake runtime.
#pragma once

#include <algorithm>
#include <cmath>
#include <deque>
#include <numeric>
#include <vector>

#include "cuda/fake_runtime.hpp"
#include "host/model.hpp"
#include "host/traffic.hpp"
#include "machine/cuda/cuda_model.hpp"
#include "machine/host/host_model.hpp"

namespace terrazzo::testing {

inline constexpr StepLimits kPairLimits{.max_rows = 320,
                                        .max_sequences = 24,
                                        .max_position = 640,
                                        .num_pages = 96,
                                        .max_logit_rows = 24,
                                        .max_partials = 256};

/// Loads the same random weights into both models.
inline void load(host::HostModel& host, cuda::CudaModel& gpu, uint64_t seed) {
  const ModelShape& shape = host.shape();
  std::mt19937_64 random(seed);
  const auto matrix = [&](uint64_t rows, uint64_t cols) {
    const float scale = std::sqrt(3.0F / static_cast<float>(cols));
    std::vector<bf16> values(rows * cols);
    for (bf16& value : values) {
      value = to_bf16(scale * static_cast<float>(static_cast<int32_t>(random())) * 0x1p-31F);
    }
    return values;
  };
  const uint32_t cols[kNumMatrices] = {shape.hidden, shape.attention_panels() * kPanelCols,
                                       shape.hidden, shape.act_panels() * kPanelCols, shape.hidden};
  const auto rows_of = [&](Matrix which, uint32_t rank) {
    if (which != Matrix::kLmHead) {
      const uint32_t panels = matrix_view(shape, which).panels;
      return which == Matrix::kO || which == Matrix::kDown ? shape.hidden : panels * kPanelCols;
    }
    const uint32_t share = shape.vocab_panels() * kPanelCols;
    return std::min(share, shape.vocab - std::min(shape.vocab, rank * share));
  };
  for (uint32_t i = 0; i < kNumMatrices; ++i) {
    const auto which = static_cast<Matrix>(i);
    for (uint32_t layer = 0; layer < matrix_layers(shape, which); ++layer) {
      std::vector<float> scale(i % 2 == 0 ? cols[i] : 0, 1.25F);
      std::vector<bf16> values;
      for (uint32_t rank = 0; rank < shape.world; ++rank) {
        const uint32_t rows = rows_of(which, rank);
        if (rank == 0 || which != Matrix::kO || shape.o_sharded) {  // else the same on all GPUs
          values = matrix(rows, cols[i]);
        }
        std::vector<int32_t> order(rows);
        std::iota(order.begin(), order.end(), 0);
        const SourceMatrix source{values.data(), rows, cols[i]};
        host.weights(rank).pack_rows(which, layer, order, source, order, scale);
        gpu.pack_rows(rank, {which, layer, order, order, scale}, source);
      }
    }
  }
  const std::vector<bf16> embedding = matrix(shape.vocab, shape.hidden);
  const std::vector<bf16> norm(shape.hidden, to_bf16(1.0F));
  std::vector<float> rope;
  for (uint32_t i = 0; i < host.limits().max_position * shape.head_dim; ++i) {
    rope.push_back(std::cos(static_cast<float>(i)));
  }
  const SourceMatrix source{embedding.data(), shape.vocab, shape.hidden};
  host.set_tables(source, norm, rope);
  gpu.set_tables(source, norm, rope);
}

struct Pair {
  explicit Pair(uint64_t seed, uint32_t world = 1, const cuda::CudaModelOptions& options = {},
                const StepLimits& limits = kPairLimits)
      : random(seed),
        shape(tiny_shape(random, world)),
        host(shape, limits, {.num_sms = 2, .num_threads = 1}),
        gpu(shape, limits, options) {
    load(host, gpu, seed);
  }

  Random random;
  ModelShape shape;
  host::HostModel host;
  cuda::CudaModel gpu;
};

inline bool equal(const StepOutputs& a, const StepOutputs& b) {
  return a.tokens == b.tokens && a.logprobs == b.logprobs && a.logits == b.logits;
}

/// Steps of random traffic, up to two in flight: how many differ from the host's.
inline int different_steps(Pair& pair, const StepLimits& limits, uint64_t seed, int steps,
                           uint32_t sequences, int32_t longest_prompt) {
  Traffic traffic(seed, pair.shape, limits, sequences, longest_prompt);
  std::deque<std::pair<uint64_t, StepOutputs>> expected;
  int different = 0;
  const auto collect = [&] {
    const auto [number, outputs] = expected.front();
    expected.pop_front();
    different += equal(pair.gpu.collect(number), outputs) ? 0 : 1;
  };
  for (int i = 0; i < steps; ++i) {
    const StepArrays arrays = traffic.next();
    const StepOutputs outputs = pair.host.step(arrays.request());
    if (expected.size() == cuda::CudaModel::kMaxInFlight) {
      collect();
    }
    expected.emplace_back(pair.gpu.submit(arrays.request()), outputs);
    if (pair.random.chance(0.2)) {  // now and then the engine has nothing to prepare
      collect();
    }
  }
  while (!expected.empty()) {
    collect();
  }
  return different;
}

/// A step of `rows` prompt tokens on the first pages; the last row is sampled.
inline StepArrays prompt(int32_t rows) {
  StepArrays arrays;
  arrays.add_sequence(rows, 0);
  arrays.assign_pages(ascending_pages(kPairLimits.num_pages));
  arrays.add_logit_row(rows - 1, 0.0F, 0, true);
  return arrays;
}

}  // namespace terrazzo::testing
