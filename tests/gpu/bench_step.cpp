// Whole steps of an 8B Llama with random weights: time of a step, of each instruction kind alone,
// and the bytes and products that a step cannot do without.
//
// bench_step STEP...    a step is d<sequences>x<context> (decode), p<sequences>x<tokens> (prompts),
//                       layers=<n>, sms=<n> (all unless given), or trace=<file>: then one launch
//                       of each step, its events as CSV
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "lower/lower.hpp"
#include "lower/part_of_step.hpp"
#include "machine/cuda/cuda_machine.hpp"
#include "machine/cuda/random_fill.hpp"
#include "require_gpu.hpp"

namespace terrazzo {
namespace {

constexpr int kRepeats = 9;

struct StepKind {
  bool prefill;
  uint32_t sequences;
  uint32_t tokens;  // context of a decoding sequence, or length of a prompt

  uint32_t rows() const { return prefill ? sequences * tokens : sequences; }
  uint32_t pages_each() const { return ceil_div(tokens, kPageTokens); }
};

ModelShape llama_8b(uint32_t layers) {
  return {.num_layers = layers,
          .hidden = 4096,
          .intermediate = 14336,
          .num_heads = 32,
          .num_kv_heads = 8,
          .head_dim = 128,
          .vocab = 128256,
          .norm_eps = 1e-5F,
          .world = 1,
          .split_tokens = 2048};
}

/// The arrays of a step; page tables never alias.
struct StepArrays {
  std::vector<int32_t> tokens, lens, contexts, indptr{0}, pages, logit_rows, top_k, output_position;
  std::vector<float> temperature, top_p;
  std::vector<uint64_t> seed;
  std::vector<uint8_t> want_logits;

  StepArrays(const StepKind& kind, uint32_t vocab, std::mt19937_64& random) {
    for (uint32_t s = 0; s < kind.sequences; ++s) {
      const uint32_t length = kind.prefill ? kind.tokens : 1;
      lens.push_back(static_cast<int32_t>(length));
      contexts.push_back(kind.prefill ? 0 : static_cast<int32_t>(kind.tokens - 1));
      for (uint32_t i = 0; i < length; ++i) {
        tokens.push_back(static_cast<int32_t>(random() % vocab));
      }
      for (uint32_t page = 0; page < kind.pages_each(); ++page) {
        pages.push_back(static_cast<int32_t>(pages.size()));
      }
      indptr.push_back(static_cast<int32_t>(pages.size()));
      logit_rows.push_back(static_cast<int32_t>(tokens.size()) - 1);
    }
    std::shuffle(pages.begin(), pages.end(), random);
    temperature.assign(kind.sequences, 0.0F);
    top_p.assign(kind.sequences, 1.0F);
    top_k.assign(kind.sequences, 0);
    output_position.assign(kind.sequences, 0);
    seed.assign(kind.sequences, 1);
    want_logits.assign(kind.sequences, 0);
  }

  StepRequest request() const {
    return {tokens,      lens,  contexts, indptr, pages,           logit_rows,
            temperature, top_k, top_p,    seed,   output_position, want_logits};
  }
};

LoweredStep only(LoweredStep step, Opcode opcode) {
  keep_only(step, {&opcode, 1});
  return step;
}

double median_ms(cuda::CudaMachine& machine) {
  cuda::Event begin(cudaEventDefault);
  cuda::Event end(cudaEventDefault);
  std::vector<float> times;
  for (int i = 0; i < kRepeats + 1; ++i) {
    cuda::check_cuda(cudaEventRecord(begin.get(), machine.stream()));
    machine.launch();
    cuda::check_cuda(cudaEventRecord(end.get(), machine.stream()));
    machine.wait();
    cuda::check_cuda(cudaEventSynchronize(end.get()));
    float ms = 0;
    cuda::check_cuda(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    if (i >= 1) {
      times.push_back(ms);
    }
  }
  std::nth_element(times.begin(), times.begin() + kRepeats / 2, times.end());
  return times[kRepeats / 2];
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

void report(cuda::CudaMachine& machine, const StepKind& kind, std::mt19937_64& random,
            double bandwidth) {
  const ModelShape& shape = machine.shape();
  const StepArrays arrays(kind, shape.vocab, random);
  const LoweredStep step = lower(arrays.request(), shape, machine.limits(), {machine.num_sms()});
  machine.upload(step);
  const double ms = median_ms(machine);
  const double layer_weights =
      double(shape.qkv_panels() + shape.hidden_panels()) * kPanelCols * shape.hidden +
      3.0 * shape.hidden * shape.intermediate;
  const double head = double(shape.vocab) * shape.hidden;
  const double weight_bytes = 2.0 * (shape.num_layers * layer_weights + head);
  const double flops =
      2.0 * (kind.rows() * shape.num_layers * layer_weights + kind.sequences * head);
  const double kv_bytes = kind.prefill ? 0.0
                                       : 4.0 * shape.num_layers * shape.num_kv_heads *
                                             shape.head_dim * kind.sequences * kind.tokens;
  std::printf(
      "%c%ux%u layers %u: %.3f ms; GEMM %.1f TFLOP (%.0f TFLOP/s), weights %.2f GB, KV %.2f "
      "GB: bytes alone %.3f ms\n",
      kind.prefill ? 'p' : 'd', kind.sequences, kind.tokens, shape.num_layers, ms, flops * 1e-12,
      flops * 1e-9 / ms, weight_bytes * 1e-9, kv_bytes * 1e-9,
      (weight_bytes + kv_bytes) / bandwidth * 1e3);
  for (uint32_t i = 0; i < kNumOpcodes; ++i) {
    const auto opcode = static_cast<Opcode>(i);
    const LoweredStep part = only(step, opcode);
    uint64_t count = 0;
    for (const auto& segment : part.gpus[0].segments) {
      count += segment.size();
    }
    if (count > 1 || opcode == Opcode::kStepEnd) {
      machine.upload(part);
      std::printf("    %-16s %6llu a layer or end  %9.3f ms alone\n", opcode_name(opcode),
                  static_cast<unsigned long long>(count - 1), median_ms(machine));
      std::fflush(stdout);
    }
  }
}

/// One line an instruction and role, in nanoseconds.
void write_trace(cuda::CudaMachine& machine, const StepKind& kind, std::mt19937_64& random,
                 const std::string& path) {
  const StepArrays arrays(kind, machine.shape().vocab, random);
  const LoweredStep step =
      lower(arrays.request(), machine.shape(), machine.limits(), {machine.num_sms()});
  machine.run(step);
  machine.run(step);
  std::FILE* const file = std::fopen(path.c_str(), "w");
  check(file != nullptr, "bench_step", "cannot write ", path);
  std::fprintf(file, "begin,end,position,layer,sm,role,opcode\n");
  for (const TraceEvent& event : machine.events()) {
    std::fprintf(file, "%llu,%llu,%u,%d,%u,%u,%s\n",
                 static_cast<unsigned long long>(event.begin_ns),
                 static_cast<unsigned long long>(event.end_ns), event.position, event.layer,
                 event.sm, static_cast<unsigned>(event.role), opcode_name(event.opcode));
  }
  std::fclose(file);
}

void run(const std::vector<StepKind>& kinds, uint32_t layers, uint32_t num_sms,
         const std::string& trace) {
  std::mt19937_64 random(1);
  StepLimits limits{};
  for (const StepKind& kind : kinds) {
    limits.max_rows = std::max(limits.max_rows, kind.rows());
    limits.max_sequences = std::max(limits.max_sequences, kind.sequences);
    limits.max_position = std::max(limits.max_position, kind.tokens + 1);
    limits.num_pages = std::max(limits.num_pages, kind.sequences * kind.pages_each());
  }
  limits.max_partials = 4096;
  constexpr uint32_t kTraceEvents = 1 << 21;
  cuda::CudaMachine machine(llama_8b(layers), limits,
                            {.num_sms = num_sms, .trace_events = trace.empty() ? 0 : kTraceEvents});
  {
    const auto weights = cuda::random_block(0.03F, 1);
    const auto values = cuda::random_block(1.0F, 2);
    machine.weights().fill(weights, values);
    const uint64_t heap_bytes = machine.layout().at(Buffer::kCounters);
    for (uint64_t at = 0; at < heap_bytes; at += values.bytes()) {
      machine.write(static_cast<Buffer>(0), at, values.data(),
                    std::min<uint64_t>(values.bytes(), heap_bytes - at));
    }
  }
  const ModelView view = machine.weights().view();
  const WeightView& from = view.matrices[static_cast<uint32_t>(Matrix::kGateUp)];
  const WeightView& to = view.matrices[static_cast<uint32_t>(Matrix::kDown)];
  const uint64_t bytes = std::min<uint64_t>(to.layer_stride_bytes * layers, 2ull << 30);
  const double bandwidth = copy_rate(from.data, const_cast<std::byte*>(to.data), bytes);
  std::printf("copy, read and written: %.3f TB/s\n", bandwidth * 1e-12);
  for (const StepKind& kind : kinds) {
    if (trace.empty()) {
      report(machine, kind, random, bandwidth);
    } else {
      write_trace(machine, kind, random, trace);
    }
  }
}

}  // namespace
}  // namespace terrazzo

int main(int argc, char** argv) {
  using terrazzo::StepKind;
  terrazzo::testing::require_gpu();
  uint32_t layers = 32;
  uint32_t num_sms = 0;
  std::string trace;
  std::vector<StepKind> kinds;
  for (int i = 1; i < argc; ++i) {
    unsigned a = 0;
    unsigned b = 0;
    if (std::sscanf(argv[i], "layers=%u", &a) == 1) {
      layers = a;
    } else if (std::sscanf(argv[i], "sms=%u", &a) == 1) {
      num_sms = a;
    } else if (std::strncmp(argv[i], "trace=", 6) == 0) {
      trace = argv[i] + 6;
    } else if (std::sscanf(argv[i] + 1, "%ux%u", &a, &b) == 2) {
      kinds.push_back({argv[i][0] == 'p', a, b});
    } else {
      std::fprintf(stderr, "bench_step: %s: expected d64x512, p8x1024 or layers=4\n", argv[i]);
      return 2;
    }
  }
  terrazzo::run(kinds, layers, num_sms, trace);
  return 0;
}
