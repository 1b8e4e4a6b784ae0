// Whole steps of a Llama with random weights: time of a step, of each instruction kind alone, the
// bytes and products that a step cannot do without, and the same step in other orders.
//
// bench_step [OPTION...] STEP...
//   STEP             as simulate/bench_steps.hpp names it: d64x512, p8x1024, 512@511,2x512@0
//   shape=8b         or 70b-tp2, 70b-tp8: one GPU's share as a plain model
//   layers=32        of the model
//   sms=0            that run the step; 0: all
//   alone=1          whether each instruction kind is timed alone
//   order=4:80:95    another order to run each step in, as `to_text(WeavePlan)` writes it; bits
//   must
//                    equal the plain order's, else the exit status is 1. May be given repeatedly
//   costs=FILE       lines "name value" of a cost model: the order that the planner finds with it
//   trace=FILE       instead of times: one launch of each step, its events as CSV
//   archive=FOLDER   times go to FOLDER/runs.jsonl too, and events of a launch to FOLDER/N.events
//   traced=2         layers of these launches; 0: none
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "lower/lower.hpp"
#include "lower/part_of_step.hpp"
#include "machine/cuda/cuda_machine.hpp"
#include "require_gpu.hpp"
#include "simulate/bench_steps.hpp"
#include "simulate/weave_planner.hpp"
#include "step_timing.hpp"

namespace terrazzo {
namespace {

struct Options {
  std::string shape = "8b";
  uint32_t layers = 32;
  uint32_t sms = 0;
  bool alone = true;
  std::vector<WeavePlan> orders;
  std::string costs;
  std::string trace;
  std::string archive;
  uint32_t traced = 2;
  std::vector<StepKind> steps;
};

LoweredStep only(LoweredStep step, Opcode opcode) {
  keep_only(step, {&opcode, 1});
  return step;
}

/// Device to device, of more bytes than the L2 holds: bytes read and written a second.
double copy_rate(const std::byte* from, std::byte* to, uint64_t bytes) {
  cuda::Event begin(cudaEventDefault);
  cuda::Event end(cudaEventDefault);
  std::vector<float> times(5);
  for (float& ms : times) {
    cuda::check_cuda(cudaEventRecord(begin.get(), nullptr));
    cuda::check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, nullptr));
    cuda::check_cuda(cudaEventRecord(end.get(), nullptr));
    cuda::check_cuda(cudaEventSynchronize(end.get()));
    cuda::check_cuda(cudaEventElapsedTime(&ms, begin.get(), end.get()));
  }
  std::sort(times.begin(), times.end());
  return 2.0 * static_cast<double>(bytes) / (times[2] * 1e-3);
}

/// Steps of one model on the device.
class Bench {
 public:
  Bench(const Options& options, const ModelShape& shape)
      : options_(options),
        machine_(shape, limits_for(options.steps),
                 {.num_sms = options.sms,
                  .trace_events = options.trace.empty() && options.archive.empty() ? 0 : 1U << 21}),
        weights_(cuda::random_block(0.03F, 1)),
        values_(cuda::random_block(1.0F, 2)) {
    machine_.weights().fill(weights_, values_);
    testing::fill_heap(machine_, values_);
  }

  /// Bytes that a copy within the device reads and writes a second.
  double copy_bandwidth() {
    const ModelView view = machine_.weights().view();
    const WeightView& from = view.matrices[static_cast<uint32_t>(Matrix::kGateUp)];
    const WeightView& to = view.matrices[static_cast<uint32_t>(Matrix::kDown)];
    const uint64_t bytes =
        std::min<uint64_t>(to.layer_stride_bytes * machine_.shape().num_layers, 2ull << 30);
    return copy_rate(from.data, const_cast<std::byte*>(to.data), bytes);
  }

  void report(const StepKind& kind, double bandwidth) {
    const StepArrays arrays(kind, shape().vocab, random_);
    const LoweredStep step = lowered(arrays, {});
    RunRecord run{shape(), kind.name, machine_.num_sms()};
    run.ms = time(step);
    const double layer_weights =
        double(shape().qkv_panels() + shape().attention_panels()) * kPanelCols * shape().hidden +
        3.0 * shape().hidden * shape().intermediate;
    const double head = double(shape().vocab) * shape().hidden;
    const double weight_bytes = 2.0 * (shape().num_layers * layer_weights + head);
    const double flops =
        2.0 * (kind.rows() * shape().num_layers * layer_weights + kind.sequences() * head);
    const double kv_bytes = 4.0 * shape().num_layers * shape().num_kv_heads * shape().head_dim *
                            static_cast<double>(kind.decode_tokens());
    std::printf(
        "%s %s layers %u: %.3f ms; GEMM %.1f TFLOP (%.0f TFLOP/s), weights %.2f GB, KV %.2f "
        "GB: bytes alone %.3f ms\n",
        options_.shape.c_str(), kind.name.c_str(), shape().num_layers, run.ms, flops * 1e-12,
        flops * 1e-9 / run.ms, weight_bytes * 1e-9, kv_bytes * 1e-9,
        (weight_bytes + kv_bytes) / bandwidth * 1e3);
    keep(run);
    if (options_.alone) {
      report_alone(step, run);
    }
    if (!options_.archive.empty() && options_.traced != 0) {
      archive_events(arrays, run, {});
    }
    report_orders(arrays, step, run);
  }

  /// One line an instruction and role, in nanoseconds.
  void write_trace(const StepKind& kind) {
    const StepArrays arrays(kind, shape().vocab, random_);
    const LoweredStep step =
        lowered(arrays, options_.orders.empty() ? WeavePlan{} : options_.orders.front());
    machine_.run(step);
    machine_.run(step);
    testing::write_trace(options_.trace, machine_.events());
  }

  int differences() const { return differences_; }

 private:
  const ModelShape& shape() const { return machine_.shape(); }

  LoweredStep lowered(const StepArrays& arrays, const WeavePlan& order, uint32_t layers = 0) const {
    ModelShape shape = machine_.shape();
    shape.num_layers = layers == 0 ? shape.num_layers : std::min(layers, shape.num_layers);
    return lower(arrays.request(), shape, machine_.limits(), {machine_.num_sms(), order});
  }

  double time(const LoweredStep& step) {
    machine_.upload(step);
    return testing::median_ms(machine_);
  }

  void keep(const RunRecord& run) {
    if (!options_.archive.empty()) {
      append_record(options_.archive + "/runs.jsonl", run);
    }
  }

  void report_alone(const LoweredStep& step, RunRecord run) {
    for (uint32_t i = 0; i < kNumOpcodes; ++i) {
      const auto opcode = static_cast<Opcode>(i);
      const LoweredStep part = only(step, opcode);
      uint64_t count = 0;
      for (const auto& segment : part.gpus[0].segments) {
        count += segment.size();
      }
      if (count > 1 || opcode == Opcode::kStepEnd) {
        run.kind = opcode_name(opcode);
        run.ms = time(part);
        keep(run);
        std::printf("    %-16s %6llu a layer or end  %9.3f ms alone\n", opcode_name(opcode),
                    static_cast<unsigned long long>(count - 1), run.ms);
        std::fflush(stdout);
      }
    }
  }

  void archive_events(const StepArrays& arrays, RunRecord run, const WeavePlan& order) {
    const LoweredStep step = lowered(arrays, order, options_.traced);
    machine_.run(step);
    machine_.run(step);
    run.shape.num_layers = step.num_layers;
    run.order = to_text(order);
    run.ms = 0;
    write_events(
        options_.archive + "/" + options_.shape + "." + std::to_string(num_traces_++) + ".events",
        run, machine_.events());
  }

  /// The step in each other order, and the plain one before and after.
  void report_orders(const StepArrays& arrays, const LoweredStep& plain, RunRecord run) {
    std::vector<WeavePlan> orders = options_.orders;
    if (!options_.costs.empty()) {
      WeavePlanner planner(shape(), machine_.limits(), {machine_.num_sms()}, costs());
      const PlannedOrder& planned = planner.plan(arrays.request());
      std::printf("    planned %s: simulated %.3f ms, plain %.3f ms\n",
                  to_text(planned.plan).c_str(), planned.best_ns * 1e-6, planned.plain_ns * 1e-6);
      if (planned.plan.split_block != 0) {
        orders.push_back(planned.plan);
      }
    }
    const auto blocks = ceil_div(static_cast<uint32_t>(arrays.tokens.size()), kRowBlock);
    std::erase_if(orders, [&](const WeavePlan& order) { return order.split_block >= blocks; });
    if (orders.empty()) {
      return;
    }
    const Results expected = results(plain);
    for (const WeavePlan& order : orders) {
      const LoweredStep step = lowered(arrays, order);
      const Results seen = results(step);
      const bool equal = seen == expected;
      for (size_t part = 0; part < seen.size(); ++part) {
        if (seen[part] != expected[part]) {
          const auto at =
              std::mismatch(seen[part].begin(), seen[part].end(), expected[part].begin());
          std::printf("    part %zu of the results differs from byte %td of %zu on\n", part,
                      at.first - seen[part].begin(), seen[part].size());
        }
      }
      differences_ += equal ? 0 : 1;
      const double before = time(plain);
      run.order = to_text(order);
      run.ms = time(step);
      keep(run);
      const double after = time(plain);
      std::printf("    order %-12.24s %9.3f ms; plain %.3f, %.3f ms: %.3f times as fast, bits %s\n",
                  run.order.c_str(), run.ms, before, after, (before + after) / 2 / run.ms,
                  equal ? "equal" : "DIFFER");
      std::fflush(stdout);
      if (!options_.archive.empty() && options_.traced != 0) {
        archive_events(arrays, run, order);
      }
    }
  }

  CostModel costs() const {
    CostModel model;
    std::ifstream file(options_.costs);
    check(file.good(), "bench_step", "cannot read ", options_.costs);
    std::string name;
    for (double value = 0; file >> name >> value;) {
      model.set(name, value);
    }
    return model;
  }

  using Results = std::vector<std::vector<std::byte>>;

  /// What a step leaves behind when nothing was there: the residual stream, candidates, tokens, and
  /// parts of the KV pool.
  Results results(const LoweredStep& step) {
    constexpr uint64_t kPartBytes = 32 << 20;
    constexpr uint64_t kKvParts = 8;
    testing::fill_heap(machine_, values_);
    machine_.run(step);
    Results parts;
    const auto read = [&](Buffer buffer, uint64_t offset, uint64_t bytes) {
      parts.emplace_back(bytes);
      machine_.read(buffer, offset, parts.back().data(), bytes);
    };
    const uint64_t rows = ceil_div<uint64_t>(step.rows.size(), kRowBlock) * kRowBlock;
    read(Buffer::kX, 0, rows * shape().hidden * sizeof(bf16));
    for (const Buffer buffer : {Buffer::kCandidates, Buffer::kSampled}) {
      const uint64_t of_row =
          machine_.layout().size(buffer) / machine_.limits().compact_blocks() / kRowBlock;
      read(buffer, 0,
           step.logit_rows.size() * (buffer == Buffer::kSampled ? sizeof(SampledToken) : of_row));
    }
    const uint64_t pool = machine_.layout().size(Buffer::kKvPool);
    for (uint64_t part = 0; part < kKvParts; ++part) {
      read(Buffer::kKvPool, pool / kKvParts * part, std::min(kPartBytes, pool / kKvParts));
    }
    return parts;
  }

  const Options& options_;
  cuda::CudaMachine machine_;
  cuda::DeviceMemory weights_;
  cuda::DeviceMemory values_;
  std::mt19937_64 random_{1};
  uint32_t num_traces_ = 0;
  int differences_ = 0;
};

int run(const Options& options) {
  ModelShape shape = shape_named(options.shape);
  shape.num_layers = options.layers;
  Bench bench(options, shape);
  const double bandwidth = bench.copy_bandwidth();
  std::printf("copy, read and written: %.3f TB/s\n", bandwidth * 1e-12);
  for (const StepKind& kind : options.steps) {
    if (options.trace.empty()) {
      bench.report(kind, bandwidth);
    } else {
      bench.write_trace(kind);
    }
  }
  return bench.differences() == 0 ? 0 : 1;
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
    if (const char* shape = value_of(argv[i], "shape")) {
      options.shape = shape;
    } else if (const char* layers = value_of(argv[i], "layers")) {
      options.layers = static_cast<uint32_t>(std::atoi(layers));
    } else if (const char* sms = value_of(argv[i], "sms")) {
      options.sms = static_cast<uint32_t>(std::atoi(sms));
    } else if (const char* alone = value_of(argv[i], "alone")) {
      options.alone = std::atoi(alone) != 0;
    } else if (const char* order = value_of(argv[i], "order")) {
      options.orders.push_back(weave_plan_of(order));
    } else if (const char* costs = value_of(argv[i], "costs")) {
      options.costs = costs;
    } else if (const char* trace = value_of(argv[i], "trace")) {
      options.trace = trace;
    } else if (const char* archive = value_of(argv[i], "archive")) {
      options.archive = archive;
    } else if (const char* traced = value_of(argv[i], "traced")) {
      options.traced = static_cast<uint32_t>(std::atoi(traced));
    } else if (parse_step(argv[i], kind)) {
      options.steps.push_back(kind);
    } else {
      std::fprintf(stderr,
                   "bench_step: %s: expected an option or d64x512, p8x1024, 512@511,2x512@0\n",
                   argv[i]);
      return 2;
    }
  }
  return run(options);
}
