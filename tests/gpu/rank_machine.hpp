// A CUDA machine of several ranks beside the host machine of the same degree: what tests of ranks
// read of a step, and what they compare it with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "host/model.hpp"
#include "machine/cuda/cuda_machine.hpp"
#include "machine/host/host_machine.hpp"

namespace terrazzo::testing {

using Bytes = std::vector<std::byte>;

// Of the residual stream, relative Frobenius. Host and GPU round products differently (to nearest,
// towards zero), so that some bf16 roundings fall the other way: 2^-8 each, and every layer adds to
// the sum.
inline constexpr double kResidualTolerance = 1e-2;
// Of the tokens of many steps: where two candidates are as near as the roundings, either may win.
inline constexpr double kEqualTokens = 0.95;

/// Rooms for steps of 9 row blocks, so that each of 8 ranks owns one; `small`: of two, for runs
/// without a GPU and under a sanitizer.
constexpr StepLimits rank_limits(bool small) {
  if (small) {
    return {.max_rows = 160,
            .max_sequences = 24,
            .max_position = 256,
            .num_pages = 48,
            .max_logit_rows = 24,
            .max_partials = 128};
  }
  return {.max_rows = 1100,
          .max_sequences = 140,
          .max_position = 640,
          .num_pages = 320,
          .max_logit_rows = 140,
          .max_partials = 1024};
}

/// A random small model with 8 KV heads.
inline ModelShape rank_shape(Random& random, uint32_t world, uint32_t head_dim, bool small) {
  return {.num_layers = small ? 1U : 2U,
          .hidden = small ? 72U : random.pick({520U, 704U}),
          .intermediate = small ? 200U : 1160U,
          .num_heads = 8 * (small ? 1U : random.pick({1U, 2U, 4U})),
          .num_kv_heads = 8,
          .head_dim = head_dim,
          .vocab = small ? 300U : 1100U,
          .norm_eps = 1e-5F,
          .world = world,
          .split_tokens = small ? 64U : 128U};
}

/// Of bf16 values.
inline double relative_error(const Bytes& seen, const Bytes& expected) {
  double error = 0;
  double norm = 0;
  for (size_t at = 0; at < seen.size(); at += sizeof(bf16)) {
    bf16 s{};
    bf16 e{};
    std::memcpy(&s, seen.data() + at, sizeof(s));
    std::memcpy(&e, expected.data() + at, sizeof(e));
    const double d = double{to_float(s)} - double{to_float(e)};
    error += d * d;
    norm += double{to_float(e)} * double{to_float(e)};
  }
  return std::sqrt(error / norm);
}

/// Of the row blocks that hold a step's rows.
inline uint64_t residual_bytes(const LoweredStep& step, const ModelShape& shape) {
  return ceil_div<uint64_t>(step.rows.size(), kRowBlock) * shape.hidden_panels() * kPanelBytes;
}

/// Zeros in the rows of the last block that are none of the step's: what steps before left there.
inline void clear_padding(Bytes& residual, const LoweredStep& step) {
  const size_t rows = step.rows.size() % kRowBlock;
  if (rows == 0) {
    return;
  }
  const size_t panels =
      residual.size() / kPanelBytes / ceil_div<size_t>(step.rows.size(), kRowBlock);
  for (size_t panel = 0; panel < panels; ++panel) {
    std::byte* const end = residual.data() + residual.size() - panel * kPanelBytes;
    std::fill(end - (kRowBlock - rows) * kRowBytes, end, std::byte{0});
  }
}

struct Results {
  Bytes residual;  // of one rank
  Bytes sampled;   // of all ranks, one after the other

  bool operator==(const Results&) const = default;
};

/// All ranks on one GPU or, with `real`, each on its own.
class RankMachine {
 public:
  RankMachine(const ModelShape& shape, const StepLimits& limits, const TestModel& model,
              uint64_t watchdog_ns, bool real)
      : shape_(shape),
        machine_(shape, limits, from_first_gpu(watchdog_ns, real ? 1 : shape.world)) {
    for (uint32_t rank = 0; rank < shape.world; ++rank) {
      machine_.set_model(model.packed(rank), model.tables(), rank);
    }
  }

  cuda::CudaMachine& operator*() { return machine_; }
  cuda::CudaMachine* operator->() { return &machine_; }

  Results run(const LoweredStep& step, uint32_t rank) {
    machine_.run(step);
    return results(step, rank);
  }
  /// Of the last step.
  Results results(const LoweredStep& step, uint32_t rank) {
    return {residual(step, rank), sampled(step)};
  }
  Bytes residual(const LoweredStep& step, uint32_t rank) {
    Bytes residual = read(rank, Buffer::kX, residual_bytes(step, shape_));
    clear_padding(residual, step);
    return residual;
  }
  Bytes sampled(const LoweredStep& step) {
    Bytes all;
    for (uint32_t rank = 0; rank < shape_.world; ++rank) {
      const Bytes own = read(rank, Buffer::kSampled, step.logit_rows.size() * sizeof(SampledToken));
      all.insert(all.end(), own.begin(), own.end());
    }
    return all;
  }
  Bytes read(uint32_t rank, Buffer buffer, uint64_t bytes) {
    Bytes out(bytes);
    machine_.read(buffer, 0, out.data(), bytes, rank);
    return out;
  }
  /// What placeholders of the next step stand for.
  void set_sampled(const Bytes& tokens) {
    for (uint32_t rank = 0; rank < shape_.world; ++rank) {
      machine_.write(Buffer::kSampled, 0, tokens.data(), tokens.size(), rank);
    }
  }

 private:
  /// A machine takes GPUs from the current one on, which may be another machine's last.
  static cuda::CudaOptions from_first_gpu(uint64_t watchdog_ns, uint32_t ranks_per_gpu) {
    cuda::check_cuda(cudaSetDevice(0));
    return {.watchdog_ns = watchdog_ns, .ranks_per_gpu = ranks_per_gpu};
  }

  ModelShape shape_;
  cuda::CudaMachine machine_;
};

/// Tokens on the GPU against the host's, over the steps of a model: a single step may have two.
struct TokenTally {
  size_t equal = 0;
  size_t all = 0;

  void add(const TokenTally& more) {
    equal += more.equal;
    all += more.all;
  }
  double share() const {
    return all == 0 ? 1 : static_cast<double>(equal) / static_cast<double>(all);
  }
  /// One near tie is no failure, however few tokens there are.
  bool is_good() const { return all - equal <= 1 || share() >= kEqualTokens; }
};

/// A step's results on the GPU against the host's.
struct HostComparison {
  double error;       // of the residual stream
  TokenTally tokens;  // of a rank; all ranks must agree

  bool is_good() const { return error <= kResidualTolerance; }
};

inline HostComparison compare_with_host(const Results& seen, const LoweredStep& step,
                                        host::HostMachine& host) {
  Bytes expected(seen.residual.size());
  std::memcpy(expected.data(), host.heap(0) + host.layout().at(Buffer::kX), expected.size());
  clear_padding(expected, step);
  HostComparison compared{relative_error(seen.residual, expected), {}};
  for (size_t i = 0; i < step.logit_rows.size(); ++i) {
    SampledToken token{};
    std::memcpy(&token, seen.sampled.data() + i * sizeof(token), sizeof(token));
    ++compared.tokens.all;
    compared.tokens.equal += token.token == host.sampled()[i].token ? 1 : 0;
  }
  return compared;
}

/// Both go on from the GPU's caches and tokens: one different token would make all later ones
/// differ.
inline void copy_state(RankMachine& gpu, host::HostMachine& host) {
  for (uint32_t rank = 0; rank < gpu->shape().world; ++rank) {
    for (const Buffer buffer : {Buffer::kKvPool, Buffer::kSampled}) {
      gpu->read(buffer, 0, host.heap(rank) + host.layout().at(buffer), host.layout().size(buffer),
                rank);
    }
  }
}

}  // namespace terrazzo::testing
