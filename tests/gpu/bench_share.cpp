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
#include <random>
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

/// What a rank's heap holds of activations, on the host. The power that products take, and with it
/// the clock, depends on the numbers: a share alone never gets its peers', so it begins with those
/// that a whole step left.
class Activations {
 public:
  explicit Activations(cuda::CudaMachine& machine) {
    for (const Buffer buffer : kBuffers) {
      bytes_.emplace_back(machine.layout().size(buffer));
      machine.read(buffer, 0, bytes_.back().data(), bytes_.back().size());
    }
  }
  void write_to(cuda::CudaMachine& machine) const {
    for (size_t i = 0; i < bytes_.size(); ++i) {
      machine.write(kBuffers[i], 0, bytes_[i].data(), bytes_[i].size());
    }
  }

 private:
  static constexpr Buffer kBuffers[] = {Buffer::kX,       Buffer::kX1,        Buffer::kSumSqX,
                                        Buffer::kSumSqX1, Buffer::kAttention, Buffer::kAct,
                                        Buffer::kPartials};
  std::vector<std::vector<std::byte>> bytes_;
};

/// A machine with random weights and values.
class Bench {
 public:
  Bench(const Options& options, bool is_alone)
      : options_(options),
        machine_(llama_70b(options), limits_for(options.steps),
                 {.trace_events = options.trace.empty() ? 0 : kTraceEvents, .is_alone = is_alone}) {
    for (uint32_t rank = 0; rank < (is_alone ? 1 : options.gpus); ++rank) {
      machine_.use_device_of(rank);
      const cuda::DeviceMemory values = cuda::random_block(1.0F, 2);
      machine_.weights(rank).fill(cuda::random_block(0.03F, 1), values);
      testing::fill_heap(machine_, values, rank);
    }
  }

  /// Milliseconds of a step on all GPUs, and what it leaves on the first.
  double time_whole(const StepKind& kind, std::vector<Activations>& left) {
    const double ms = time(lowered(kind), options_.trace);
    left.emplace_back(machine_);
    return ms;
  }
  /// Of the first rank's share of it; `activations` may be null.
  double time_share(const StepKind& kind, const Activations* activations) {
    if (activations != nullptr) {
      activations->write_to(machine_);
    }
    LoweredStep step = lowered(kind);
    keep_share(step, 0);
    return time(step, options_.trace + ".share");
  }

 private:
  LoweredStep lowered(const StepKind& kind) {
    std::mt19937_64 random(1);
    const StepArrays arrays(kind, machine_.shape().vocab, random);
    return lower(arrays.request(), machine_.shape(), machine_.limits(),
                 {machine_.num_sms(), options_.order});
  }
  double time(const LoweredStep& step, const std::string& trace) {
    machine_.upload(step);
    const double ms = testing::median_ms(machine_);
    if (!options_.trace.empty()) {
      testing::write_trace(trace, machine_.events());
    }
    return ms;
  }

  const Options& options_;
  cuda::CudaMachine machine_;
};

void print(const Options& options, const StepKind& kind, const std::vector<double>& shares_ms,
           double whole_ms) {
  const ModelShape shape = llama_70b(options);
  std::printf("gpus %u layers %u O %s %s: share", shape.world, shape.num_layers,
              shape.o_sharded ? "sharded" : "replicated", kind.name.c_str());
  double ms = 0;
  for (const double share_ms : shares_ms) {
    std::printf(" %.3f", share_ms);
    ms = std::max(ms, share_ms);
  }
  if (options.real) {
    std::printf(" ms, whole %.3f = %.3f of it", whole_ms, whole_ms / ms);
    ms = whole_ms;
  }
  const Work work = work_of(kind, shape);
  const double gigabytes = (work.weight_bytes + work.kv_bytes) * 1e-9;
  std::printf(" ms; a GPU %.0f TFLOP/s of model flops; weights and KV %.2f GB, %.2f TB/s\n",
              work.flops * 1e-9 / ms, gigabytes, gigabytes / ms);
}

void run(const Options& options) {
  const size_t num_steps = options.steps.size();
  std::vector<double> whole_ms(num_steps);
  std::vector<Activations> left;  // by each step, on the first rank
  if (options.real) {
    cuda::check_cuda(cudaSetDevice(0));
    Bench bench(options, /*is_alone=*/false);
    for (size_t i = 0; i < num_steps; ++i) {
      whole_ms[i] = bench.time_whole(options.steps[i], left);
    }
  }
  std::vector<std::vector<double>> shares_ms(num_steps);  // of each device
  for (uint32_t device = 0; device < (options.real ? options.gpus : 1); ++device) {
    cuda::check_cuda(cudaSetDevice(static_cast<int>(device)));
    Bench bench(options, /*is_alone=*/true);
    for (size_t i = 0; i < num_steps; ++i) {
      shares_ms[i].push_back(bench.time_share(options.steps[i], options.real ? &left[i] : nullptr));
    }
  }
  for (size_t i = 0; i < num_steps; ++i) {
    print(options, options.steps[i], shares_ms[i], whole_ms[i]);
  }
}

}  // namespace
}  // namespace terrazzo

int main(int argc, char** argv) {
  using namespace terrazzo;
  using terrazzo::testing::value_of;
  Options options;
  bool is_good = true;
  for (int i = 1; i < argc; ++i) {
    StepKind kind;
    if (const char* layers = value_of(argv[i], "layers")) {
      options.layers = static_cast<uint32_t>(std::atoi(layers));
    } else if (const char* gpus = value_of(argv[i], "gpus")) {
      options.gpus = static_cast<uint32_t>(std::atoi(gpus));
    } else if (const char* o = value_of(argv[i], "o")) {
      options.o_sharded = std::strcmp(o, "sharded") == 0;
      is_good &= options.o_sharded || std::strcmp(o, "replicated") == 0;
    } else if (const char* order = value_of(argv[i], "order")) {
      options.order = weave_plan_of(order);
    } else if (const char* trace = value_of(argv[i], "trace")) {
      options.trace = trace;
    } else if (std::strcmp(argv[i], "real") == 0) {
      options.real = true;
    } else if (parse_step(argv[i], kind)) {
      options.steps.push_back(kind);
    } else {
      is_good = false;
    }
  }
  if (!is_good || options.steps.empty() || options.gpus == 0 || options.layers == 0) {
    std::fprintf(stderr,
                 "bench_share: expected [gpus=2] [real] [layers=4] [o=replicated|sharded] "
                 "[order=SPEC] [trace=FILE] and steps: d64x512, p8x1024, 512@511,2x512@0\n");
    return 2;
  }
  terrazzo::testing::require_gpu(options.real ? static_cast<int>(options.gpus) : 1);
  run(options);
  return 0;
}
