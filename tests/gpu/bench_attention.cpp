// Attention alone, through the whole interpreter: one layer's instructions without waits.
//
// bench_attention [CASE...]   a case is p<sequences>x<tokens> (prompts), d<sequences>x<context>
//                             (decode), heads=<query heads>:<KV heads> for those that follow,
//                             repeats=<launches>, or trace=<file>: then one launch of each case,
//                             its events as CSV. Without cases: the prompts of the report.
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
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

constexpr size_t kSweepBytes = size_t{128} << 20;  // more than the L2 holds
constexpr uint32_t kHidden = 256;                  // does not matter here
constexpr uint32_t kVocab = 256;

struct Case {
  bool prefill;
  uint32_t sequences;
  uint32_t tokens;  // context of a decoding sequence, or length of a prompt
  uint32_t heads;
  uint32_t kv_heads;

  uint32_t rows() const { return prefill ? sequences * tokens : sequences; }
  uint32_t pages_each() const { return ceil_div(tokens, kPageTokens); }
};

/// The arrays of a step; page tables never alias.
struct Arrays {
  std::vector<int32_t> tokens, lens, contexts, indptr{0}, pages;

  explicit Arrays(const Case& c) : tokens(c.rows(), 1) {
    lens.assign(c.sequences, c.prefill ? static_cast<int32_t>(c.tokens) : 1);
    contexts.assign(c.sequences, c.prefill ? 0 : static_cast<int32_t>(c.tokens - 1));
    for (uint32_t s = 0; s < c.sequences; ++s) {
      for (uint32_t page = 0; page < c.pages_each(); ++page) {
        pages.push_back(static_cast<int32_t>(pages.size()));
      }
      indptr.push_back(static_cast<int32_t>(pages.size()));
    }
    std::mt19937_64 random(7);
    std::shuffle(pages.begin(), pages.end(), random);
  }

  StepRequest request() const {
    return {tokens, lens, contexts, indptr, pages, {}, {}, {}, {}, {}, {}, {}};
  }
};

/// Milliseconds of each launch, all queued at once.
std::vector<float> times_ms(cuda::CudaMachine& machine, uint32_t repeats) {
  const cuda::DeviceMemory swept(kSweepBytes);
  std::deque<std::pair<cuda::Event, cuda::Event>> launches;
  for (uint32_t i = 0; i < repeats + 1; ++i) {
    auto& [begin, end] = launches.emplace_back(cudaEventDefault, cudaEventDefault);
    cuda::check_cuda(cudaMemsetAsync(swept.data(), 0, swept.bytes(), machine.stream()));
    machine.launch(/*fetch=*/false, &begin);
    end.record(machine.stream());
  }
  machine.wait();
  std::vector<float> times;
  for (size_t i = 1; i < launches.size(); ++i) {
    float ms = 0;
    cuda::check_cuda(cudaEventElapsedTime(&ms, launches[i].first.get(), launches[i].second.get()));
    times.push_back(ms);
  }
  std::sort(times.begin(), times.end());
  return times;
}

void write_trace(cuda::CudaMachine& machine, std::FILE* file, size_t which) {
  machine.launch();
  machine.wait();
  for (const TraceEvent& event : machine.events()) {
    std::fprintf(file, "%zu,%llu,%llu,%u,%u,%u,%s\n", which,
                 static_cast<unsigned long long>(event.begin_ns),
                 static_cast<unsigned long long>(event.end_ns), event.position, event.sm,
                 static_cast<unsigned>(event.role), opcode_name(event.opcode));
  }
}

void run(const Case& c, size_t which, uint32_t repeats, std::FILE* trace) {
  const ModelShape shape{.num_layers = 1,
                         .hidden = kHidden,
                         .intermediate = kHidden,
                         .num_heads = c.heads,
                         .num_kv_heads = c.kv_heads,
                         .head_dim = 128,
                         .vocab = kVocab,
                         .norm_eps = 1e-5F,
                         .world = 1,
                         .split_tokens = 2048};
  const StepLimits limits{.max_rows = c.rows(),
                          .max_sequences = c.sequences,
                          .max_position = c.tokens + 1,
                          .num_pages = c.sequences * c.pages_each(),
                          .max_logit_rows = 0,
                          .max_partials = 4096};
  constexpr uint32_t kTraceEvents = 1 << 18;
  cuda::CudaMachine machine(shape, limits, {.trace_events = trace != nullptr ? kTraceEvents : 0});
  const auto values = cuda::random_block(1.0F, 2);
  machine.weights().fill(values, values);
  const uint64_t heap_bytes = machine.layout().at(Buffer::kCounters);
  for (uint64_t at = 0; at < heap_bytes; at += values.bytes()) {
    machine.write(static_cast<Buffer>(0), at, values.data(),
                  std::min<uint64_t>(values.bytes(), heap_bytes - at));
  }
  const Arrays arrays(c);
  LoweredStep step = lower(arrays.request(), shape, limits, {machine.num_sms()});
  constexpr Opcode kAttention[] = {Opcode::kAttendPrefill, Opcode::kAttendDecode,
                                   Opcode::kAttendMerge};
  keep_only(step, kAttention);
  machine.upload(step);
  const std::vector<float> times = times_ms(machine, repeats);
  const double seconds = times[repeats / 2] * 1e-3;
  const double area = double(c.sequences) * c.tokens * c.tokens / 2;  // half the square
  const double flops = 4.0 * area * c.heads * shape.head_dim;
  const double bytes = 4.0 * c.sequences * c.tokens * c.kv_heads * shape.head_dim;
  std::printf("%c%ux%u heads %u:%u: %.1f us (%.1f to %.1f), %.0f %s\n", c.prefill ? 'p' : 'd',
              c.sequences, c.tokens, c.heads, c.kv_heads, seconds * 1e6, times.front() * 1e3,
              times.back() * 1e3, c.prefill ? flops / seconds * 1e-12 : bytes / seconds * 1e-9,
              c.prefill ? "TFLOP/s" : "GB/s");
  std::fflush(stdout);
  if (trace != nullptr) {
    write_trace(machine, trace, which);
  }
}

}  // namespace
}  // namespace terrazzo

int main(int argc, char** argv) {
  using terrazzo::Case;
  terrazzo::testing::require_gpu();
  std::FILE* trace = nullptr;
  std::vector<Case> cases;
  uint32_t heads = 32;
  uint32_t kv_heads = 8;
  uint32_t repeats = 9;
  for (int i = 1; i < argc; ++i) {
    unsigned a = 0;
    unsigned b = 0;
    if (std::sscanf(argv[i], "heads=%u:%u", &a, &b) == 2) {
      heads = a;
      kv_heads = b;
    } else if (std::sscanf(argv[i], "repeats=%u", &a) == 1) {
      repeats = std::max(a, 1u);
    } else if (std::strncmp(argv[i], "trace=", 6) == 0) {
      trace = std::fopen(argv[i] + 6, "w");
    } else if (std::strchr("pd", argv[i][0]) != nullptr &&
               std::sscanf(argv[i] + 1, "%ux%u", &a, &b) == 2) {
      cases.push_back({argv[i][0] == 'p', a, b, heads, kv_heads});
    } else {
      std::fprintf(stderr, "bench_attention: %s: expected p8x1024, d64x512 or heads=64:8\n",
                   argv[i]);
      return 2;
    }
  }
  if (cases.empty()) {
    cases = {{true, 8, 1024, 32, 8},
             {true, 1, 8192, 32, 8},
             {true, 8, 1024, 64, 8},
             {true, 1, 8192, 64, 8}};
  }
  if (trace != nullptr) {
    std::fprintf(trace, "case,begin,end,position,sm,role,opcode\n");
  }
  for (size_t i = 0; i < cases.size(); ++i) {
    terrazzo::run(cases[i], i, repeats, trace);
  }
  if (trace != nullptr) {
    std::fclose(trace);
  }
  return 0;
}
