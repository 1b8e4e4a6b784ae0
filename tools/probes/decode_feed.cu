// Decode attention fed by bulk copies: which form of the two products keeps up with memory?
// One query token, up to 8 heads that share one KV head (a unit), 64-token pages of pre-swizzled
// tiles.
//   transposed: S^T = K Q^T (64 tokens x 8 heads), O^T = V^T P^T, P^T through shared memory
//   padded:     S = Q K^T with Q padded to 64 rows, P stays in registers, O = P V
// Both take the row sums of P from the tensor core (P times ones), so both give the same bits.
#include "decode_kernel.cuh"

namespace {

using namespace probe;

// ---------------------------------------------------------------- data

__host__ __device__ inline uint16_t kv_value(uint64_t block, int is_v, int token, int column) {
  uint64_t key = ((block * 2 + is_v) * kPageTokens + token) * 128 + column;
  return bf16_of_float(near_normal(key));
}

__global__ void fill_pool(char* pool, int head_dim, size_t blocks) {
  size_t elements = blocks * kPageTokens * head_dim * 2;
  for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < elements;
       i += size_t(gridDim.x) * blockDim.x) {
    int column = i % head_dim;
    int token = i / head_dim % kPageTokens;
    int is_v = i / (head_dim * kPageTokens) % 2;
    size_t block = i / (head_dim * kPageTokens * 2);
    size_t panel = (block * 2 + is_v) * (head_dim / 64) + column / 64;
    *reinterpret_cast<uint16_t*>(pool + panel * kPanelBytes + swizzled(token, column % 64)) =
        kv_value(block, is_v, token, column);
  }
}

uint16_t q_value(int unit, int head, int column, int group) {
  if (head >= group)
    return 0;
  return bf16_of_float(near_normal((uint64_t(1) << 50) + (unit * 8ull + head) * 128 + column));
}

double check_unit(int unit, int head_dim, int group, int pages, const std::vector<int>& blocks,
                  const std::vector<float>& out, float scale) {
  int tokens = unit_tokens(unit, pages);
  double difference = 0.0;
  double norm = 0.0;
  for (int head = 0; head < group; ++head) {
    std::vector<double> score(tokens);
    double highest = -1e300;
    for (int t = 0; t < tokens; ++t) {
      int block = blocks[size_t(unit) * pages + t / kPageTokens];
      for (int d = 0; d < head_dim; ++d) {
        score[t] += double(float_of_bf16(q_value(unit, head, d, group))) *
                    float_of_bf16(kv_value(block, 0, t % kPageTokens, d));
      }
      score[t] *= scale;
      highest = std::max(highest, score[t]);
    }
    double sum = 0.0;
    std::vector<double> o(head_dim);
    for (int t = 0; t < tokens; ++t) {
      double p = std::exp(score[t] - highest);
      sum += p;
      int block = blocks[size_t(unit) * pages + t / kPageTokens];
      for (int d = 0; d < head_dim; ++d) {
        o[d] += p * float_of_bf16(kv_value(block, 1, t % kPageTokens, d));
      }
    }
    for (int d = 0; d < head_dim; ++d) {
      double want = o[d] / sum;
      double got = out[(size_t(unit) * kGroup + head) * head_dim + d];
      difference += (want - got) * (want - got);
      norm += want * want;
    }
  }
  double error = std::sqrt(difference / norm);
  return std::isfinite(error) ? error : 1e9;
}

struct Work {
  int pages, units;
  std::vector<int> block_table;
  int* blocks;
};

Work make_work(int pages, int units) {
  // Sequence u / kKvHeads, KV head u % kKvHeads; pages are scattered over the pool.
  Work work{pages, units, std::vector<int>(size_t(units) * pages), nullptr};
  int pool_pages = (units + kKvHeads - 1) / kKvHeads * pages;
  std::vector<int> order(pool_pages);
  for (int i = 0; i < pool_pages; ++i)
    order[i] = i;
  for (int i = pool_pages - 1; i > 0; --i)
    std::swap(order[i], order[mix(i) % (i + 1)]);
  for (int u = 0; u < units; ++u) {
    for (int p = 0; p < pages; ++p) {
      work.block_table[size_t(u) * pages + p] =
          order[(u / kKvHeads) * pages + p] * kKvHeads + u % kKvHeads;
    }
  }
  work.blocks = to_device(work.block_table);
  return work;
}

template <int kHeadDim>
char* make_queries(int units, int group) {
  std::vector<uint16_t> q(size_t(units) * kGroup * kHeadDim);
  for (int u = 0; u < units; ++u) {
    for (int h = 0; h < kGroup; ++h) {
      for (int d = 0; d < kHeadDim; ++d) {
        size_t byte = size_t(u) * kGroup * kHeadDim * 2 + (d / 64) * 1024 + swizzled(h, d % 64);
        q[byte / 2] = q_value(u, h, d, group);
      }
    }
  }
  return reinterpret_cast<char*>(to_device(q));
}

template <int kHeadDim, Form kForm, Release kRelease>
void launch(const Params& params, int blocks) {
  auto* kernel = attend<kHeadDim, kForm, kRelease>;
  int bytes = sizeof(Shared<kHeadDim>);
  PROBE_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  kernel<<<blocks, kThreads, bytes>>>(params);
}

template <int kHeadDim, Form kForm, Release kRelease>
void measure(const char* name, Params params, const Work& work, int sms, int group,
             std::vector<float>* reference) {
  size_t outputs = size_t(work.units) * kGroup * kHeadDim;
  std::printf("%-30s", name);
  std::string verdict;
  for (int blocks : {1, 36, sms}) {
    params.units_per_sm = std::min(work.units / blocks, 32) & ~1;
    PROBE_CHECK(cudaMemset(params.out, 0xFF, outputs * 4));
    double seconds = median_seconds(5, [&] { launch<kHeadDim, kForm, kRelease>(params, blocks); });
    double bytes =
        double(blocks) * params.units_per_sm * params.pages * kPageTokens * kHeadDim * 4.0;
    std::printf("  %4d: %7.1f (%5.1f)", blocks, bytes / seconds * 1e-9,
                bytes / seconds * 1e-9 / blocks);
    if (blocks != sms || kForm == Form::kStreamOnly || kRelease == Release::kNoFeed)
      continue;
    auto out = to_host(params.out, outputs);
    double worst = 0.0;
    for (int unit : {0, 1, work.units / 3, work.units - 1}) {
      worst = std::max(worst, check_unit(unit, kHeadDim, group, params.pages, work.block_table, out,
                                         1.0f / sqrtf(kHeadDim)));
    }
    size_t different = 0;
    for (size_t i = 0; i < reference->size(); ++i) {
      bool used = int(i / kHeadDim % kGroup) < group;
      different += used && bits_of_float((*reference)[i]) != bits_of_float(out[i]);
    }
    char text[96];
    std::snprintf(text, sizeof text, "  error %.1e %s, %s", worst, worst < 1e-2 ? "right" : "WRONG",
                  reference->empty() ? "bits taken"
                  : different == 0   ? "bits equal"
                                     : "BITS DIFFER");
    verdict = text;
    if (reference->empty())
      *reference = out;
  }
  std::printf("%s\n", verdict.c_str());
}

template <int kHeadDim>
void measure_head_dim(int sms) {
  constexpr size_t kPoolBytes = size_t(1100) << 20;
  char* pool = device_array<char>(kPoolBytes);
  size_t block_bytes = size_t(kPageTokens) * kHeadDim * 4;
  fill_pool<<<sms * 8, 256>>>(pool, kHeadDim, kPoolBytes / block_bytes);
  finish("fill_pool");
  for (int context : {4096, 512}) {
    int pages = context / kPageTokens;
    int per_sm = std::min(32, int(kPoolBytes / block_bytes / pages / sms)) & ~1;
    Work work = make_work(pages, (sms * per_sm) / kKvHeads * kKvHeads);
    for (int group : {4, 8}) {
      std::printf("\n## head dim %d, context %d, %d heads a KV head: SMs: GB/s (per SM)\n",
                  kHeadDim, context, group);
      char* q = make_queries<kHeadDim>(work.units, group);
      float* out = device_array<float>(size_t(work.units) * kGroup * kHeadDim);
      Params params{pool, work.blocks, q, out, pages, 0, 1.0f / sqrtf(kHeadDim) * 1.44269504f};
      std::vector<float> reference;
      constexpr auto kTwice = Release::kOwnerTwice;
      measure<kHeadDim, Form::kStreamOnly, kTwice>("stream only", params, work, sms, group,
                                                   &reference);
      measure<kHeadDim, Form::kTransposed, kTwice>("transposed", params, work, sms, group,
                                                   &reference);
      measure<kHeadDim, Form::kPadded, kTwice>("padded", params, work, sms, group, &reference);
      if (group == 8) {
        measure<kHeadDim, Form::kStreamOnly, Release::kBoth>("stream only, both arrive", params,
                                                             work, sms, group, &reference);
        measure<kHeadDim, Form::kTransposed, Release::kBoth>("transposed, both arrive", params,
                                                             work, sms, group, &reference);
        measure<kHeadDim, Form::kPadded, Release::kBoth>("padded, both arrive", params, work, sms,
                                                         group, &reference);
        measure<kHeadDim, Form::kTransposed, Release::kNoFeed>(
            "transposed, arithmetic alone", params, work, sms, group, &reference);
        measure<kHeadDim, Form::kPadded, Release::kNoFeed>("padded, arithmetic alone", params, work,
                                                           sms, group, &reference);
      }
      PROBE_CHECK(cudaFree(q));
      PROBE_CHECK(cudaFree(out));
    }
    PROBE_CHECK(cudaFree(work.blocks));
  }
  PROBE_CHECK(cudaFree(pool));
}

}  // namespace

int main() {
  Device device = open_device();
  measure_head_dim<128>(device.sm_count);
  measure_head_dim<64>(device.sm_count);
  return 0;
}
