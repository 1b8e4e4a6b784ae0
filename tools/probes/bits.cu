// Do all forms of the same bf16 product give equal bits, and which formula gives those bits?
//   bits [FOLDER]          runs on the GPU, writes raw results to FOLDER if given
//   bits offline FOLDER    fits the formula to raw results of an earlier run
#include <string>
#include <thread>

#include "bits_data.cuh"
#include "bits_products.cuh"
#include "mma_model.hpp"
#include "probe.cuh"

namespace {

using namespace probe;

// ---------------------------------------------------------------- comparison

struct Difference {
  size_t count = 0;
  uint64_t max_ulp = 0;   // among finite pairs
  size_t not_finite = 0;  // differing pairs with a NaN or infinity
};

int64_t ordered(uint32_t bits) {
  return bits & 0x80000000u ? -int64_t(bits & 0x7FFFFFFF) : int64_t(bits);
}

Difference compare(const std::vector<float>& x, const std::vector<float>& y, bool transposed) {
  Difference result;
  for (int m = 0; m < kRows; ++m) {
    for (int n = 0; n < kRows; ++n) {
      uint32_t p = bits_of_float(x[size_t(m) * kRows + n]);
      uint32_t q = bits_of_float(transposed ? y[size_t(n) * kRows + m] : y[size_t(m) * kRows + n]);
      if (p == q)
        continue;
      ++result.count;
      bool finite = (p & 0x7F800000) != 0x7F800000 && (q & 0x7F800000) != 0x7F800000;
      if (!finite)
        ++result.not_finite;
      else
        result.max_ulp = std::max(result.max_ulp, uint64_t(std::llabs(ordered(p) - ordered(q))));
    }
  }
  return result;
}

std::string cell(const Difference& d) {
  if (d.count == 0)
    return "equal";
  char text[64];
  std::snprintf(text, sizeof text, "%zu/%llu%s", d.count, (unsigned long long)d.max_ulp,
                d.not_finite ? "!" : "");
  return text;
}

double relative_error(const Operands& x, const std::vector<float>& c) {
  double difference = 0.0;
  double norm = 0.0;
  for (size_t i = 0; i < kOutputs; i += 97) {
    size_t m = i / kRows;
    size_t n = i % kRows;
    double sum = 0.0;
    for (int k = 0; k < kDepth; ++k) {
      sum += double(float_of_bf16(x.a[m * kDepth + k])) * float_of_bf16(x.b[n * kDepth + k]);
    }
    difference += (sum - c[i]) * (sum - c[i]);
    norm += sum * sum;
  }
  return std::sqrt(difference / norm);
}

// ---------------------------------------------------------------- variants

struct Variant {
  const char* name;
  bool transposed;  // computes the transposed product: A and B change places
  std::function<void(const uint16_t*, const uint16_t*, float*, const float*, int)> launch;
};

template <int kN, ASource kSource, bool kTransA, bool kTransB, Start kStart, Group kGroup>
Variant wgmma_variant(const char* name, bool transposed = false) {
  return {name, transposed,
          [](const uint16_t* a, const uint16_t* b, float* c, const float* start, int depth) {
            auto* kernel = wgmma_product<kN, kSource, kTransA, kTransB, kStart, kGroup>;
            int bytes = 8192 + std::max(kN, 64) * 128;
            PROBE_CHECK(
                cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
            kernel<<<dim3(kRows / 64, kRows / kN), 128, bytes>>>(a, b, c, start, depth);
          }};
}

std::vector<Variant> variants() {
  constexpr auto S = ASource::kShared;
  constexpr auto R = ASource::kRegisters;
  constexpr auto Z = Start::kZeroed;
  constexpr auto G4 = Group::kFourSteps;
  return {
      wgmma_variant<256, S, false, false, Z, G4>("wgmma n256 (repeat)"),
      wgmma_variant<128, S, false, false, Z, G4>("wgmma n128"),
      wgmma_variant<64, S, false, false, Z, G4>("wgmma n64"),
      wgmma_variant<8, S, false, false, Z, G4>("wgmma n8"),
      wgmma_variant<256, R, false, false, Z, G4>("A registers n256"),
      wgmma_variant<128, R, false, false, Z, G4>("A registers n128"),
      wgmma_variant<64, R, false, false, Z, G4>("A registers n64"),
      wgmma_variant<256, S, false, true, Z, G4>("B MN-major n256"),
      wgmma_variant<128, S, false, true, Z, G4>("B MN-major n128"),
      wgmma_variant<64, S, false, true, Z, G4>("B MN-major n64"),
      wgmma_variant<128, R, false, true, Z, G4>("A reg, B MN n128"),
      wgmma_variant<64, S, true, false, Z, G4>("A MN-major n64"),
      wgmma_variant<8, S, true, false, Z, G4>("A MN-major n8"),
      wgmma_variant<8, S, false, false, Z, G4>("swapped n8", true),
      wgmma_variant<16, S, false, false, Z, G4>("swapped n16", true),
      wgmma_variant<24, S, false, false, Z, G4>("swapped n24", true),
      wgmma_variant<32, S, false, false, Z, G4>("swapped n32", true),
      wgmma_variant<64, S, false, false, Z, G4>("swapped n64", true),
      wgmma_variant<8, S, true, false, Z, G4>("swapped, A MN n8", true),
      wgmma_variant<256, S, false, false, Z, Group::kOneStep>("n256 group per k16"),
      wgmma_variant<8, S, false, false, Z, Group::kOneStep>("n8 group per k16"),
      wgmma_variant<256, S, false, false, Start::kScaleZero, G4>("n256 scale-d 0"),
      wgmma_variant<8, S, false, false, Start::kScaleZero, G4>("n8 scale-d 0"),
      {"mma.sync m16n8k16", false,
       [](const uint16_t* a, const uint16_t* b, float* c, const float*, int depth) {
         mma_sync_product<<<dim3(kRows / 16, kRows / 8), 32>>>(a, b, c, depth);
       }},
  };
}

struct Permutation {
  const char* name;
  std::function<int(int)> source;
};

std::vector<Permutation> permutations() {
  return {
      {"k16: swap k, k^1", [](int k) { return k ^ 1; }},
      {"k16: swap pairs", [](int k) { return k ^ 2; }},
      {"k16: swap quads", [](int k) { return k ^ 4; }},
      {"k16: swap halves", [](int k) { return k ^ 8; }},
      {"k16: reverse", [](int k) { return k ^ 15; }},
      {"k16: multiply by 5", [](int k) { return (k & ~15) | ((k * 5) & 15); }},
      {"k32: swap k16 (control)", [](int k) { return k ^ 16; }},
  };
}

// ---------------------------------------------------------------- the formula

struct Raw {                  // of one distribution
  std::vector<float> full;    // K = 256 from zero
  std::vector<float> single;  // one k16 step onto `full`
};

uint32_t predict(const MmaModel& model, const Operands& x, int depth, size_t output, uint32_t c) {
  size_t m = output / kRows;
  size_t n = output % kRows;
  for (int k = 0; k < depth; k += 16) {
    c = mma_step(model, &x.a[m * depth + k], &x.b[n * depth + k], c);
  }
  return c;
}

size_t count_matches(const MmaModel& model, const Operands& x, int depth,
                     const std::vector<float>* start, const std::vector<float>& result,
                     size_t stride) {
  constexpr int kThreads = 8;
  size_t matches[kThreads] = {};
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      size_t found = 0;
      for (size_t i = t * stride; i < kOutputs; i += stride * kThreads) {
        uint32_t c = start ? bits_of_float((*start)[i]) : 0;
        found += predict(model, x, depth, i, c) == bits_of_float(result[i]);
      }
      matches[t] = found;
    });
  }
  for (auto& thread : threads)
    thread.join();
  size_t total = 0;
  for (size_t found : matches)
    total += found;
  return total;
}

std::string describe(const MmaModel& m) {
  const char* names[] = {"to zero", "down", "nearest even"};
  char text[160];
  std::snprintf(text, sizeof text,
                "extra bits %d, align %s, result %s, groups of %d, product exponent %s",
                m.extra_bits, names[int(m.align)], names[int(m.result)], m.group,
                m.product_normalised ? "normalised" : "sum of exponents");
  return text;
}

void fit(const std::vector<Raw>& raw) {
  std::vector<Operands> full;
  std::vector<Operands> single;
  for (const char* name : kDistributions) {
    full.push_back(make_operands(name, kDepth));
    single.push_back(make_operands(name, 16));
  }
  struct Scored {
    size_t score;
    MmaModel model;
  };
  std::vector<Scored> scored;
  for (int extra = 0; extra <= 8; ++extra) {
    for (Round align : {Round::kTowardZero, Round::kDown, Round::kNearestEven}) {
      for (Round result : {Round::kTowardZero, Round::kDown, Round::kNearestEven}) {
        for (int group : {4, 8, 16}) {
          for (bool normalised : {false, true}) {
            MmaModel model{extra, align, result, group, normalised};
            size_t score = 0;
            for (int d = 0; d < kNumDistributions; ++d) {
              score += count_matches(model, single[d], 16, &raw[d].full, raw[d].single, 997);
            }
            scored.push_back({score, model});
          }
        }
      }
    }
  }
  std::sort(scored.begin(), scored.end(),
            [](const Scored& x, const Scored& y) { return x.score > y.score; });
  std::printf("\n## formula: best of %zu models, matches of %d sampled outputs\n", scored.size(),
              int((kOutputs + 996) / 997) * kNumDistributions);
  for (int i = 0; i < 4; ++i) {
    std::printf("%6zu  %s\n", scored[i].score, describe(scored[i].model).c_str());
  }
  std::printf("\n%-12s %22s %22s\n", "best model", "one step onto C", "16 steps from 0");
  for (int d = 0; d < kNumDistributions; ++d) {
    size_t one = count_matches(scored[0].model, single[d], 16, &raw[d].full, raw[d].single, 1);
    size_t all = count_matches(scored[0].model, full[d], kDepth, nullptr, raw[d].full, 1);
    std::printf("%-12s %10zu / %zu %12zu / %zu\n", kDistributions[d], one, kOutputs, all, kOutputs);
  }
}

std::vector<float> file_floats(const std::string& path) {
  std::vector<float> values(2 * kOutputs);
  FILE* file = std::fopen(path.c_str(), "rb");
  if (!file || std::fread(values.data(), 4, values.size(), file) != values.size()) {
    std::printf("[bits] cannot read %s\n", path.c_str());
    std::exit(1);
  }
  std::fclose(file);
  return values;
}

void run_offline(const std::string& folder) {
  std::vector<Raw> raw;
  for (const char* name : kDistributions) {
    std::vector<float> values = file_floats(folder + "/" + name + ".f32");
    raw.push_back(
        {{values.begin(), values.begin() + kOutputs}, {values.begin() + kOutputs, values.end()}});
  }
  fit(raw);
}

void run_on_device(const std::string& folder) {
  open_device();
  float* c = device_array<float>(kOutputs);
  auto reference =
      wgmma_variant<256, ASource::kShared, false, false, Start::kZeroed, Group::kFourSteps>(
          "wgmma n256");
  auto onto = wgmma_variant<256, ASource::kShared, false, false, Start::kGiven, Group::kFourSteps>(
      "wgmma n256 onto C");
  auto onto_narrow =
      wgmma_variant<8, ASource::kShared, false, false, Start::kGiven, Group::kFourSteps>(
          "wgmma n8 onto C");
  auto all = variants();
  auto orders = permutations();
  std::vector<std::vector<std::string>> cells(all.size() + orders.size() + 1);
  std::vector<Raw> raw;
  for (int d = 0; d < kNumDistributions; ++d) {
    Operands x = make_operands(kDistributions[d], kDepth);
    Operands x16 = make_operands(kDistributions[d], 16);
    uint16_t* a = to_device(x.a);
    uint16_t* b = to_device(x.b);
    auto run = [&](const Variant& v, const uint16_t* p, const uint16_t* q, const float* start,
                   int depth) {
      PROBE_CHECK(cudaMemset(c, 0xFF, kOutputs * 4));
      v.launch(v.transposed ? q : p, v.transposed ? p : q, c, start, depth);
      finish(v.name);
      return to_host(c, kOutputs);
    };
    Raw results;
    results.full = run(reference, a, b, nullptr, kDepth);
    if (d < 4) {
      std::printf("# %s: relative error against double %.2e\n", kDistributions[d],
                  relative_error(x, results.full));
    }
    for (size_t v = 0; v < all.size(); ++v) {
      cells[v].push_back(
          cell(compare(results.full, run(all[v], a, b, nullptr, kDepth), all[v].transposed)));
    }
    for (size_t p = 0; p < orders.size(); ++p) {
      uint16_t* pa = to_device(permuted(x.a, orders[p].source));
      uint16_t* pb = to_device(permuted(x.b, orders[p].source));
      cells[all.size() + p].push_back(
          cell(compare(results.full, run(reference, pa, pb, nullptr, kDepth), false)));
      PROBE_CHECK(cudaFree(pa));
      PROBE_CHECK(cudaFree(pb));
    }
    float* start = to_device(results.full);
    uint16_t* a16 = to_device(x16.a);
    uint16_t* b16 = to_device(x16.b);
    results.single = run(onto, a16, b16, start, 16);
    cells.back().push_back(
        cell(compare(results.single, run(onto_narrow, a16, b16, start, 16), false)));
    for (void* pointer : {(void*)a, (void*)b, (void*)start, (void*)a16, (void*)b16}) {
      PROBE_CHECK(cudaFree(pointer));
    }
    if (!folder.empty()) {
      FILE* file = std::fopen((folder + "/" + kDistributions[d] + ".f32").c_str(), "wb");
      std::fwrite(results.full.data(), 4, kOutputs, file);
      std::fwrite(results.single.data(), 4, kOutputs, file);
      std::fclose(file);
    }
    raw.push_back(std::move(results));
  }
  std::printf("\n## bits against wgmma m64n256k16 (A, B shared, K-major); %d x %d outputs, K %d\n",
              kRows, kRows, kDepth);
  std::printf("cell: equal, or differing elements / largest distance in ulp (!: NaN or inf)\n");
  std::printf("%-24s", "");
  for (const char* name : kDistributions)
    std::printf("%-15s", name);
  std::printf("\n");
  for (size_t i = 0; i < cells.size(); ++i) {
    const char* name = i < all.size()                   ? all[i].name
                       : i < all.size() + orders.size() ? orders[i - all.size()].name
                                                        : "one k16 onto C: n8";
    std::printf("%-24s", name);
    for (const auto& text : cells[i])
      std::printf("%-15s", text.c_str());
    std::printf("\n");
  }
  fit(raw);
}

}  // namespace

int main(int argc, char** argv) {
  std::string first = argc > 1 ? argv[1] : "";
  if (first == "offline" && argc > 2)
    run_offline(argv[2]);
  else
    run_on_device(first);
  return 0;
}
