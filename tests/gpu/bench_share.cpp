// Steps of a 70B Llama on several GPUs: one GPU's share alone, with peers' signals as if they had
// come and puts to peers landing in its own memory (the time that communication can hide behind);
// and, with `real`, the same on each of the GPUs, the whole step on all of them, and how much
// longer that takes than the slowest share.
//
// bench_share [option=value ...] STEP...    steps as in simulate/bench_steps.hpp
//   gpus=8           of the model
//   real             there are so many; without it one is enough
//   layers=80        of the model
//   o=replicated     or sharded
//   order=SPEC       of the queues (docs/overlap.md) instead of the plain one
//   trace=FILE       instead of times: events of one launch of each step, as CSV; the last one's
//   stay
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "lower/lower.hpp"
#include "lower/share_of_step.hpp"
#include "machine/cuda/cuda_machine.hpp"
#include "machine/cuda/random_fill.hpp"
#include "require_gpu.hpp"
#include "simulate/bench_steps.hpp"
#include "step_timing.hpp"

namespace terrazzo {
namespace {

constexpr uint32_t kTraceEvents = 1U << 22;

struct Options {
  uint32_t layers = 80;
  uint32_t gpus = 8;
  bool o_sharded = false;
  bool real = false;
  WeavePlan order;
  std::string trace;
  std::vector<StepKind> steps;
};

ModelShape llama_70b(const Options& options) {
  return {.num_layers = options.layers,
          .hidden = 8192,
          .intermediate = 28672,
          .num_heads = 64,
          .num_kv_heads = 8,
          .head_dim = 128,
          .vocab = 128256,
          .norm_eps = 1e-5F,
          .world = options.gpus,
          .split_tokens = 2048,
          .o_sharded = options.o_sharded};
}

/// Of one GPU.
struct Work {
  double flops = 0;         // of the model
  double weight_bytes = 0;  // that it reads: a replicated O is whole on each, for whoever owns rows
  double kv_bytes = 0;      // of decoding sequences
};

Work work_of(const StepKind& step, const ModelShape& shape) {
  const double hidden = shape.hidden;
  const double share = 1.0 / shape.world;
  const double heads = 1.0 * shape.num_layers * shape.num_heads * shape.head_dim;
  const double o = hidden * heads;
  const double layers = o + shape.num_layers * hidden *
                                ((shape.num_heads + 2.0 * shape.num_kv_heads) * shape.head_dim +
                                 3.0 * shape.intermediate);
  const double head = hidden * shape.vocab;
  Work work;
  work.flops = share * 2.0 * (step.rows() * layers + step.sequences() * head);
  for (const SequenceGroup& group : step.groups) {
    const double attended = group.context + 0.5 * (group.rows + 1.0);  // of a row, on average
    work.flops += share * 4.0 * heads * group.sequences * group.rows * attended;
  }
  work.weight_bytes = 2.0 * (share * (layers - o + head) + (shape.o_sharded ? share : 1.0) * o);
  work.kv_bytes = share * 4.0 * shape.num_layers * shape.num_kv_heads * shape.head_dim *
                  static_cast<double>(step.decode_tokens());
  return work;
}

/// Milliseconds of the steps, in order: on one device as its share, or on all GPUs from it on.
std::vector<double> measure(const Options& options, int first_device, bool share_alone) {
  cuda::check_cuda(cudaSetDevice(first_device));
  const ModelShape shape = llama_70b(options);
  cuda::CudaMachine machine(
      shape, limits_for(options.steps),
      {.trace_events = options.trace.empty() ? 0 : kTraceEvents, .is_alone = share_alone});
  for (uint32_t rank = 0; rank < (share_alone ? 1 : shape.world); ++rank) {
    machine.use_device_of(rank);
    const cuda::DeviceMemory values = cuda::random_block(1.0F, 2);
    machine.weights(rank).fill(cuda::random_block(0.03F, 1), values);
    testing::fill_heap(machine, values, rank);
  }
  std::vector<double> times;
  std::mt19937_64 random(1);
  for (const StepKind& kind : options.steps) {
    const StepArrays arrays(kind, shape.vocab, random);
    LoweredStep step =
        lower(arrays.request(), shape, machine.limits(), {machine.num_sms(), options.order});
    if (share_alone) {
      keep_share(step, 0);
    }
    machine.upload(step);
    times.push_back(testing::median_ms(machine));
    if (!options.trace.empty()) {
      testing::write_trace(options.trace + (share_alone ? ".share" : ""), machine.events());
    }
  }
  return times;
}

void run(const Options& options) {
  const ModelShape shape = llama_70b(options);
  std::vector<std::vector<double>> shares;  // of a device, then a step
  for (uint32_t device = 0; device < (options.real ? options.gpus : 1); ++device) {
    shares.push_back(measure(options, static_cast<int>(device), /*share_alone=*/true));
  }
  std::vector<double> whole;
  if (options.real) {
    whole = measure(options, 0, /*share_alone=*/false);
  }
  for (size_t i = 0; i < options.steps.size(); ++i) {
    const StepKind& kind = options.steps[i];
    std::printf("gpus %u layers %u O %s %s: share", shape.world, shape.num_layers,
                shape.o_sharded ? "sharded" : "replicated", kind.name.c_str());
    double slowest = 0;
    for (const std::vector<double>& share : shares) {
      std::printf(" %.3f", share[i]);
      slowest = std::max(slowest, share[i]);
    }
    const double ms = options.real ? whole[i] : slowest;
    if (options.real) {
      std::printf(" ms, whole %.3f = %.3f of it", ms, ms / slowest);
    }
    const Work work = work_of(kind, shape);
    const double gigabytes = (work.weight_bytes + work.kv_bytes) * 1e-9;
    std::printf(" ms; a GPU %.0f TFLOP/s of model flops; weights and KV %.2f GB, %.2f TB/s\n",
                work.flops * 1e-9 / ms, gigabytes, gigabytes / ms);
  }
}

}  // namespace
}  // namespace terrazzo

int main(int argc, char** argv) {
  using namespace terrazzo;
  using terrazzo::testing::value_of;
  terrazzo::testing::require_gpu();
  Options options;
  for (int i = 1; i < argc; ++i) {
    StepKind kind;
    if (const char* layers = value_of(argv[i], "layers")) {
      options.layers = static_cast<uint32_t>(std::atoi(layers));
    } else if (const char* gpus = value_of(argv[i], "gpus")) {
      options.gpus = static_cast<uint32_t>(std::atoi(gpus));
    } else if (const char* o = value_of(argv[i], "o")) {
      options.o_sharded = std::strcmp(o, "sharded") == 0;
    } else if (const char* order = value_of(argv[i], "order")) {
      options.order = weave_plan_of(order);
    } else if (const char* trace = value_of(argv[i], "trace")) {
      options.trace = trace;
    } else if (std::strcmp(argv[i], "real") == 0) {
      options.real = true;
    } else if (parse_step(argv[i], kind)) {
      options.steps.push_back(kind);
    } else {
      std::fprintf(stderr,
                   "bench_share: %s: expected an option or d64x512, p8x1024, 512@511,2x512@0\n",
                   argv[i]);
      return 2;
    }
  }
  run(options);
  return 0;
}
