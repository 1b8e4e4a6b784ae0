// One GPU's share of steps of a 70B Llama on several, with peers' signals as if they had come and
// puts to peers landing in its own memory: the time that communication can be hidden behind.
//
// bench_share STEP...   a step is d<sequences>x<context> (decode) or p<sequences>x<tokens>
// (prompts);
//                       gpus=<n>, layers=<n> and o=replicated|sharded hold for all
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

#include "lower/lower.hpp"
#include "lower/share_of_step.hpp"
#include "lower/steps.hpp"
#include "machine/cuda/cuda_machine.hpp"
#include "machine/cuda/random_fill.hpp"
#include "require_gpu.hpp"

namespace terrazzo {
namespace {

constexpr int kRepeats = 7;

struct StepKind {
  bool prefill;
  uint32_t sequences;
  uint32_t tokens;  // context of a decoding sequence, or length of a prompt

  uint32_t rows() const { return prefill ? sequences * tokens : sequences; }
  uint32_t pages_each() const { return ceil_div(tokens, kPageTokens); }
};

ModelShape llama_70b(uint32_t layers, uint32_t gpus, bool o_sharded) {
  return {.num_layers = layers,
          .hidden = 8192,
          .intermediate = 28672,
          .num_heads = 64,
          .num_kv_heads = 8,
          .head_dim = 128,
          .vocab = 128256,
          .norm_eps = 1e-5F,
          .world = gpus,
          .split_tokens = 2048,
          .o_sharded = o_sharded};
}

testing::StepArrays arrays_of(const StepKind& kind) {
  testing::StepArrays arrays;
  int32_t rows = 0;
  for (uint32_t s = 0; s < kind.sequences; ++s) {
    const int32_t length = kind.prefill ? static_cast<int32_t>(kind.tokens) : 1;
    arrays.add_sequence(length, static_cast<int32_t>(kind.tokens) - length);
    rows += length;
    arrays.add_logit_row(rows - 1, 0.0F, 0, false);
  }
  arrays.assign_pages(testing::ascending_pages(kind.sequences * kind.pages_each()));
  return arrays;
}

double median_ms(cuda::CudaMachine& machine) {
  std::vector<float> times;
  for (int i = 0; i < kRepeats + 1; ++i) {
    cuda::Event begin(cudaEventDefault);
    cuda::Event end(cudaEventDefault);
    machine.launch(/*fetch=*/false, &begin);
    end.record(machine.stream());
    machine.wait();
    end.wait();
    float ms = 0;
    cuda::check_cuda(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    if (i >= 1) {
      times.push_back(ms);
    }
  }
  std::nth_element(times.begin(), times.begin() + kRepeats / 2, times.end());
  return times[kRepeats / 2];
}

void report(cuda::CudaMachine& machine, const StepKind& kind) {
  const ModelShape& shape = machine.shape();
  const testing::StepArrays arrays = arrays_of(kind);
  LoweredStep step = lower(arrays.request(), shape, machine.limits(), {machine.num_sms()});
  keep_share(step, 0);
  machine.upload(step);
  const double ms = median_ms(machine);
  const double hidden = shape.hidden;
  const double share = 1.0 / shape.world;
  const double o = hidden * shape.num_heads * shape.head_dim;
  const double layer = (hidden * (shape.num_heads + 2.0 * shape.num_kv_heads) * shape.head_dim + o +
                        3.0 * hidden * shape.intermediate) *
                       shape.num_layers;
  const double head = hidden * shape.vocab;
  const double context = kind.prefill ? 0.5 * kind.tokens : kind.tokens;
  const double attention =
      4.0 * kind.rows() * context * shape.num_heads * shape.head_dim * shape.num_layers;
  const double flops = share * (2.0 * (kind.rows() * layer + kind.sequences * head) + attention);
  // Weights that the GPU reads: a replicated O is whole on each, for whoever owns rows.
  const double o_bytes = 2.0 * (shape.o_sharded ? share : 1.0) * o * shape.num_layers;
  const double weight_bytes = 2.0 * share * (layer - o * shape.num_layers + head) + o_bytes;
  const double kv_bytes = kind.prefill ? 0.0
                                       : share * 4.0 * shape.num_layers * shape.num_kv_heads *
                                             shape.head_dim * kind.sequences * kind.tokens;
  std::printf(
      "gpus %u layers %u O %s %c%ux%u: %.3f ms; %.0f TFLOP/s of model flops; weights %.2f GB + "
      "KV %.2f GB = %.2f TB/s\n",
      shape.world, shape.num_layers, shape.o_sharded ? "sharded" : "replicated",
      kind.prefill ? 'p' : 'd', kind.sequences, kind.tokens, ms, flops * 1e-9 / ms,
      weight_bytes * 1e-9, kv_bytes * 1e-9, (weight_bytes + kv_bytes) * 1e-9 / ms);
  std::fflush(stdout);
}

void run(const std::vector<StepKind>& kinds, uint32_t layers, uint32_t gpus, bool o_sharded) {
  StepLimits limits{};
  for (const StepKind& kind : kinds) {
    limits.max_rows = std::max(limits.max_rows, kind.rows());
    limits.max_sequences = std::max(limits.max_sequences, kind.sequences);
    limits.max_position = std::max(limits.max_position, kind.tokens + 1);
    limits.num_pages = std::max(limits.num_pages, kind.sequences * kind.pages_each());
  }
  limits.max_partials = 4096;
  cuda::CudaMachine machine(llama_70b(layers, gpus, o_sharded), limits, {.is_alone = true});
  const auto values = cuda::random_block(1.0F, 2);
  machine.weights().fill(cuda::random_block(0.03F, 1), values);
  const uint64_t heap_bytes = machine.layout().at(Buffer::kCounters);
  for (uint64_t at = 0; at < heap_bytes; at += values.bytes()) {
    machine.write(static_cast<Buffer>(0), at, values.data(),
                  std::min<uint64_t>(values.bytes(), heap_bytes - at));
  }
  for (const StepKind& kind : kinds) {
    report(machine, kind);
  }
}

}  // namespace
}  // namespace terrazzo

int main(int argc, char** argv) {
  using terrazzo::StepKind;
  terrazzo::testing::require_gpu();
  uint32_t layers = 80;
  uint32_t gpus = 8;
  bool o_sharded = false;
  std::vector<StepKind> kinds;
  for (int i = 1; i < argc; ++i) {
    unsigned a = 0;
    unsigned b = 0;
    if (std::sscanf(argv[i], "layers=%u", &a) == 1) {
      layers = a;
    } else if (std::sscanf(argv[i], "gpus=%u", &a) == 1) {
      gpus = a;
    } else if (std::strcmp(argv[i], "o=sharded") == 0 ||
               std::strcmp(argv[i], "o=replicated") == 0) {
      o_sharded = argv[i][2] == 's';
    } else if (std::sscanf(argv[i] + 1, "%ux%u", &a, &b) == 2) {
      kinds.push_back({argv[i][0] == 'p', a, b});
    } else {
      std::fprintf(stderr,
                   "bench_share: %s: expected d64x512, p8x1024, gpus=2, layers=4 or o=sharded\n",
                   argv[i]);
      return 2;
    }
  }
  terrazzo::run(kinds, layers, gpus, o_sharded);
  return 0;
}
