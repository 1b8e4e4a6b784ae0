// GEMM instructions through the whole interpreter: rates by rows, for the shapes of an 8B Llama.
//
// bench_gemm [rows ...]     prints TFLOP/s of the median launch; pair it with a library's figures
// of the same run
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "lower/lower.hpp"
#include "lower/part_of_step.hpp"
#include "machine/cuda/cuda_machine.hpp"
#include "require_gpu.hpp"

namespace terrazzo {
namespace {

constexpr int kRepeats = 15;
constexpr uint32_t kSequenceRows = 512;

ModelShape llama_8b_layer() {
  return {.num_layers = 1,
          .hidden = 4096,
          .intermediate = 14336,
          .num_heads = 32,
          .num_kv_heads = 8,
          .head_dim = 128,
          .vocab = 256,
          .norm_eps = 1e-5F,
          .world = 1,
          .split_tokens = 2048};
}

/// Random weights; a few hundred different rows are enough to keep the tensor cores' operands
/// random.
void pack_random(PackedModel& model, Matrix which, uint32_t rows, uint32_t cols,
                 std::mt19937_64& random) {
  constexpr uint32_t kDistinctRows = 509;
  std::vector<bf16> values(uint64_t{kDistinctRows} * cols);
  for (bf16& value : values) {
    value = to_bf16(static_cast<float>(static_cast<int32_t>(random())) * 0x1p-31F * 0.05F);
  }
  std::vector<int32_t> targets(rows);
  std::iota(targets.begin(), targets.end(), 0);
  std::vector<int32_t> sources(rows);
  for (uint32_t i = 0; i < rows; ++i) {
    sources[i] = static_cast<int32_t>(i % kDistinctRows);
  }
  model.pack_rows(which, 0, targets, {values.data(), kDistinctRows, cols}, sources, {});
}

/// A step of one prompt chunk after the other.
struct Prompts {
  std::vector<int32_t> tokens, lens, contexts, indptr{0}, pages;

  explicit Prompts(uint32_t rows) : tokens(rows, 1) {
    for (uint32_t left = rows; left > 0;) {
      const uint32_t take = std::min(left, kSequenceRows);
      lens.push_back(static_cast<int32_t>(take));
      contexts.push_back(0);
      for (uint32_t page = 0; page < ceil_div(take, kPageTokens); ++page) {
        pages.push_back(static_cast<int32_t>(pages.size()));
      }
      indptr.push_back(static_cast<int32_t>(pages.size()));
      left -= take;
    }
  }

  StepRequest request() const {
    return {tokens, lens, contexts, indptr, pages, {}, {}, {}, {}, {}, {}, {}};
  }
};

LoweredStep only(LoweredStep step, Opcode opcode) {
  keep_only(step, {&opcode, 1});
  return step;
}

double median_ms(cuda::CudaMachine& machine) {
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  cuda::check_cuda(cudaEventCreate(&begin));
  cuda::check_cuda(cudaEventCreate(&end));
  std::vector<float> times;
  for (int i = 0; i < kRepeats + 2; ++i) {
    cuda::check_cuda(cudaEventRecord(begin, machine.stream()));
    machine.launch();
    cuda::check_cuda(cudaEventRecord(end, machine.stream()));
    machine.wait();
    float ms = 0;
    cuda::check_cuda(cudaEventElapsedTime(&ms, begin, end));
    if (i >= 2) {
      times.push_back(ms);
    }
  }
  std::nth_element(times.begin(), times.begin() + kRepeats / 2, times.end());
  return times[kRepeats / 2];
}

void run(const std::vector<uint32_t>& sizes) {
  const ModelShape shape = llama_8b_layer();
  std::mt19937_64 random(1);
  PackedModel model(shape);
  const uint32_t qkv = shape.qkv_panels() * kPanelCols;
  const uint32_t gate_up = shape.gate_up_panels() * kPanelCols;
  pack_random(model, Matrix::kQkv, qkv, shape.hidden, random);
  pack_random(model, Matrix::kO, shape.hidden, shape.hidden, random);
  pack_random(model, Matrix::kGateUp, gate_up, shape.hidden, random);
  pack_random(model, Matrix::kDown, shape.hidden, shape.intermediate, random);
  const uint32_t most = *std::max_element(sizes.begin(), sizes.end());
  const StepLimits limits{.max_rows = most,
                          .max_sequences = most / kSequenceRows + 1,
                          .max_position = 1024,
                          .num_pages = most / kPageTokens + 1,
                          .max_logit_rows = 0,
                          .max_partials = 0};
  SharedTables tables;
  tables.embedding.resize(uint64_t{shape.vocab} * shape.hidden);
  tables.final_norm.resize(shape.hidden);
  tables.rope.assign(uint64_t{limits.max_position} * shape.head_dim, 0.7F);
  cuda::CudaMachine machine(shape, limits, {});
  machine.set_model(model, tables);
  std::vector<std::byte> heap(machine.layout().total_bytes);
  for (uint64_t at = 0; at + 1 < machine.layout().at(Buffer::kCounters); at += sizeof(bf16)) {
    const bf16 value = to_bf16(static_cast<float>(static_cast<int32_t>(random())) * 0x1p-31F);
    std::memcpy(heap.data() + at, &value, sizeof(value));
  }
  for (const Buffer buffer : {Buffer::kSumSqX, Buffer::kSumSqX1}) {
    auto* const sums = reinterpret_cast<float*>(heap.data() + machine.layout().at(buffer));
    std::fill_n(sums, machine.layout().size(buffer) / sizeof(float), 20.0F);
  }
  machine.write(static_cast<Buffer>(0), 0, heap.data(), heap.size());

  struct Kind {
    Opcode opcode;
    double n, k;
  };
  const Kind kinds[] = {
      {Opcode::kQkvRopeAppend, double(qkv), double(shape.hidden)},
      {Opcode::kOProjResidual, double(shape.hidden), double(shape.hidden)},
      {Opcode::kGateUpSilu, double(gate_up), double(shape.hidden)},
      {Opcode::kDownResidual, double(shape.hidden), double(shape.intermediate)},
  };
  std::printf("%-16s %6s %7s %7s %9s %9s\n", "instruction", "rows", "N", "K", "us", "TFLOP/s");
  for (const Kind& kind : kinds) {
    for (const uint32_t rows : sizes) {
      const Prompts prompts(rows);
      const LoweredStep step =
          only(lower(prompts.request(), shape, limits, {machine.num_sms()}), kind.opcode);
      machine.upload(step);
      const double ms = median_ms(machine);
      std::printf("%-16s %6u %7.0f %7.0f %9.1f %9.1f\n", opcode_name(kind.opcode), rows, kind.n,
                  kind.k, ms * 1e3, 2.0 * rows * kind.n * kind.k / (ms * 1e9));
    }
  }
}

}  // namespace
}  // namespace terrazzo

int main(int argc, char** argv) {
  terrazzo::testing::require_gpu();
  std::vector<uint32_t> sizes;
  for (int i = 1; i < argc; ++i) {
    sizes.push_back(static_cast<uint32_t>(std::atoi(argv[i])));
  }
  if (sizes.empty()) {
    sizes = {512, 1024, 2048, 4096, 8192};
  }
  terrazzo::run(sizes);
  return 0;
}
