// Sampling and gather verbs of the Hopper machine against the host machine's, verb by verb.
//
// test_sampling_tiles [seed] [rounds]
#include <launch_block.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "device_array.hpp"
#include "require_gpu.hpp"
#include "sampling_kernels.cuh"
#include "sampling_twin.hpp"
#include "tile_report.hpp"

namespace terrazzo::testing {
namespace {

// Sums of 256 terms in (0, 1] by another tree and another exp2: a few units in the last place.
constexpr double kSumTolerance = 2e-6;
constexpr double kLogprobTolerance = 2e-5;

bool near(float a, float b, double tolerance) {
  return same_float(a, b) ||
         (std::isfinite(b) &&
          std::abs(double{a} - double{b}) <= tolerance * std::max(1.0, std::abs(double{b})));
}

enum class Logits { kPlain, kTies, kSpecial, kInfinite, kAllNaN, kAllLow, kFlat, kCount };

std::vector<float> random_logits(Random& random, size_t count, Logits kind) {
  std::normal_distribution<float> normal(0.0F, kind == Logits::kFlat ? 0.3F : 4.0F);
  std::vector<float> logits(count);
  for (float& logit : logits) {
    logit = normal(random);
    const uint32_t dice = random() % 16;
    if (kind == Logits::kTies) {
      logit = std::round(logit);  // -0 among them
    } else if (kind == Logits::kSpecial) {
      logit = dice == 0 ? kNaN : dice < 3 ? -kInf : logit;
    } else if (kind == Logits::kInfinite) {
      logit = random() % 200 == 0 ? kInf : dice == 0 ? logit * 0x1p-130F : logit;
    } else if (kind == Logits::kAllNaN) {
      logit = kNaN;
    } else if (kind == Logits::kAllLow) {
      logit = -kInf;
    }
  }
  return logits;
}

LogitInfo random_info(Random& random) {
  LogitInfo info{};
  info.temperature = random() % 3 == 0 ? 0.0F : 0.05F * static_cast<float>(1 + random() % 40);
  info.top_p = 1.0F;
  info.seed = (uint64_t{random()} << 32) | random();
  info.output_position = random() % 1000;
  info.logits_slot = 0;
  return info;
}

std::string describe(uint32_t row, const Candidate& seen, const Candidate& wanted) {
  char text[256];
  std::snprintf(text, sizeof text,
                "row %u: key %.9g id %u logit %.9g max %.9g sum %.9g, "
                "expected %.9g %u %.9g %.9g %.9g",
                row, seen.key, seen.id, seen.logit, seen.max, seen.sum_exp, wanted.key, wanted.id,
                wanted.logit, wanted.max, wanted.sum_exp);
  return text;
}

struct CandidateCase {
  std::vector<float> logits;  // [64][256]
  std::vector<LogitInfo> infos;
  uint32_t rows;
  uint32_t columns;
  uint32_t first_id;
  uint32_t vocab;
};

struct CandidateResult {
  std::vector<std::byte> stages;
  long long cycles;

  Candidate candidate(uint32_t row) const {
    Candidate out;
    std::memcpy(&out, stages.data() + row * sizeof(Candidate), sizeof out);
    return out;
  }
  float plain(uint32_t row, uint32_t column) const {
    float out;
    std::memcpy(&out,
                stages.data() + (1 + column / 32) * kStageBytes + row * kRowBytes +
                    column % 32 * sizeof(float),
                sizeof out);
    return out;
  }
};

template <class Acc>
CandidateResult candidates_on_gpu(const CandidateCase& test) {
  DeviceArray<float> logits(test.logits);
  DeviceArray<LogitInfo> infos(test.infos);
  DeviceArray<std::byte> stages(9 * kStageBytes);
  DeviceArray<long long> cycles(1);
  launch_block(Candidates<Acc>{{logits.get(), infos.get(), test.rows, test.columns, test.first_id,
                                test.vocab, stages.get(), cycles.get()}});
  return {stages.read(), cycles.read()[0]};
}

void check_candidates(Report& report, const CandidateCase& test, const CandidateResult& seen) {
  const auto wanted =
      twin_candidates(test.logits, test.rows, test.columns, test.first_id, test.vocab, test.infos);
  for (uint32_t row = 0; row < test.rows; ++row) {
    const Candidate got = seen.candidate(row);
    const Candidate& want = wanted[row];
    report.check(got.id == want.id && same_float(got.key, want.key) &&
                     same_float(got.logit, want.logit) && same_float(got.max, want.max) &&
                     near(got.sum_exp, want.sum_exp, kSumTolerance),
                 describe(row, got, want));
    bool equal = true;
    for (uint32_t column = 0; column < kColTile; ++column) {
      equal = equal && same_float(seen.plain(row, column), test.logits[row * kColTile + column]);
    }
    report.check(equal, "row " + std::to_string(row) + ": plain columns differ");
  }
}

bool test_candidates(Random& random, uint32_t rounds) {
  Report plain("find_candidates, token rows");
  Report small("find_candidates, operands swapped");
  Report equal("find_candidates, same bits in both shapes");
  for (uint32_t round = 0; round < rounds; ++round) {
    const auto kind = static_cast<Logits>(round % static_cast<uint32_t>(Logits::kCount));
    CandidateCase test;
    test.rows = round % 2 == 0 ? 1 + random() % 32 : 1 + random() % kHalfRows;
    test.columns = random() % 3 == 0 ? kPanelCols * (1 + random() % 4) : kColTile;
    test.first_id = kColTile * (random() % 500);
    const auto part = static_cast<uint32_t>(1 + random() % kColTile);
    const uint32_t ends[] = {test.first_id + 100000, test.first_id + part, test.first_id + kColTile,
                             test.first_id};
    test.vocab = ends[random() % 8 < 5 ? 0 : random() % 4];
    test.logits = random_logits(random, size_t{kHalfRows} * kColTile, kind);
    for (uint32_t row = 0; row < test.rows; ++row) {
      test.infos.push_back(random_info(random));
      for (uint32_t column = 0; column < kColTile; ++column) {
        if (column >= test.columns || test.first_id + column >= test.vocab) {
          test.logits[row * kColTile + column] = round % 5 == 0 ? kNaN : 1e30F;
        }
      }
    }
    const auto rows = candidates_on_gpu<sm90::Accumulator>(test);
    check_candidates(plain, test, rows);
    if (test.rows <= sm90::kSmallTokensPerConsumer) {
      const auto swapped = candidates_on_gpu<sm90::SmallAccumulator>(test);
      check_candidates(small, test, swapped);
      equal.check(std::memcmp(rows.stages.data(), swapped.stages.data(),
                              test.rows * sizeof(Candidate)) == 0,
                  "round " + std::to_string(round));
    }
  }
  const bool good[] = {plain.finish(), small.finish(), equal.finish()};
  return good[0] && good[1] && good[2];
}

std::vector<SampledToken> sample_on_gpu(const std::vector<Candidate>& candidates,
                                        const std::vector<float>& logits, uint32_t vocab,
                                        const std::vector<LogitInfo>& infos, long long* cycles) {
  const auto rows = static_cast<uint32_t>(infos.size());
  const size_t row_logits = round_up(vocab, 4U);
  std::vector<float> padded(rows * row_logits, 1e30F);
  for (size_t row = 0; row < rows; ++row) {
    std::memcpy(&padded[row * row_logits], &logits[row * vocab], vocab * sizeof(float));
  }
  DeviceArray<Candidate> candidate_array(candidates);
  DeviceArray<float> logit_array(padded);
  DeviceArray<LogitInfo> info_array(infos);
  DeviceArray<SampledToken> tokens(rows);
  DeviceArray<long long> cycle_array(1);
  launch_block(Sample{{candidate_array.get(), logit_array.get(), info_array.get(), rows,
                       static_cast<uint32_t>(candidates.size()) / rows, vocab, tokens.get(),
                       cycle_array.get()}});
  if (cycles != nullptr) {
    *cycles = cycle_array.read()[0];
  }
  return tokens.read();
}

std::vector<Candidate> all_candidates(const std::vector<float>& logits, uint32_t vocab,
                                      const std::vector<LogitInfo>& infos) {
  std::vector<Candidate> out;
  for (size_t row = 0; row < infos.size(); ++row) {
    const auto found = twin_row_candidates(&logits[row * vocab], vocab, infos[row]);
    out.insert(out.end(), found.begin(), found.end());
  }
  return out;
}

bool test_sample(Random& random, uint32_t rounds) {
  Report report("sample");
  const uint32_t vocabs[] = {1, 5, 64, 255, 257, 1000, 4096, 4097, 20000, 140000};
  for (uint32_t round = 0; round < rounds; ++round) {
    const uint32_t vocab = vocabs[round % 10];
    const uint32_t rows = vocab > 10000 ? 1 + random() % 3 : 1 + random() % kHalfRows;
    std::vector<float> logits;
    std::vector<LogitInfo> infos;
    for (uint32_t row = 0; row < rows; ++row) {
      const auto kind = static_cast<Logits>(random() % static_cast<uint32_t>(Logits::kCount));
      const auto values = random_logits(random, vocab, kind);
      logits.insert(logits.end(), values.begin(), values.end());
      LogitInfo info = random_info(random);
      const uint32_t filter = random() % 4;
      info.top_k = filter % 2 == 0 ? 0 : 1 + random() % (random() % 2 == 0 ? 60 : vocab + 2);
      const float shares[] = {0.0F, 1e-6F, 0.9F, 0.999999F};
      info.top_p = filter < 2          ? 1.0F
                   : random() % 4 == 0 ? shares[random() % 4]
                                       : 0.01F * static_cast<float>(1 + random() % 99);
      infos.push_back(info);
    }
    const auto candidates = all_candidates(logits, vocab, infos);
    const auto wanted = twin_sample(candidates, logits, vocab, infos);
    const auto seen = sample_on_gpu(candidates, logits, vocab, infos, nullptr);
    for (uint32_t row = 0; row < rows; ++row) {
      char text[256];
      std::snprintf(text, sizeof text,
                    "vocab %u row %u of %u, temperature %g top_k %u top_p %g: "
                    "token %d logprob %.9g, expected %d %.9g",
                    vocab, row, rows, infos[row].temperature, infos[row].top_k, infos[row].top_p,
                    seen[row].token, seen[row].logprob, wanted[row].token, wanted[row].logprob);
      report.check(seen[row].token == wanted[row].token &&
                       near(seen[row].logprob, wanted[row].logprob, kLogprobTolerance),
                   text);
    }
  }
  return report.finish();
}

bool test_gather(Random& random, uint32_t rounds) {
  Report report("gather_norm");
  for (uint32_t round = 0; round < rounds; ++round) {
    GatherCase test;
    test.slot_rows = 1 + random() % kRowBlock;
    test.first_row = test.slot_rows > kHalfRows ? kHalfRows * (round % 2) : 0;
    test.rows = std::min(test.slot_rows - test.first_row, kHalfRows);
    test.lines = 1 + random() % (kSlotBytes / (test.slot_rows * 16));
    test.hidden = 64 * test.lines;
    test.eps = 1e-5F;
    const uint32_t bad_one_in = round % 3 == 0 ? 0 : 60;
    test.sums = random_values(random, size_t{test.lines} * test.slot_rows * 4, bad_one_in * 4);
    for (float& sum : test.sums) {
      sum = std::fabs(sum) * 20.0F;
    }
    for (uint32_t row = 0; row < test.rows; ++row) {
      test.sources.push_back(random() % 4096);
    }
    test.tile = random_bf16(random, size_t{test.slot_rows} * kPanelCols, bad_one_in);
    test.weight = random_bf16(random, kPanelCols, bad_one_in);
    DeviceArray<float> sums(test.sums);
    DeviceArray<uint32_t> sources(test.sources);
    DeviceArray<bf16> tile(test.tile);
    DeviceArray<bf16> weight(test.weight);
    DeviceArray<std::byte> out(kStageBytes);
    launch_block(
        Gather{{sums.get(), sources.get(), tile.get(), weight.get(), test.lines, test.slot_rows,
                test.first_row, test.rows, test.hidden, test.eps, out.get()}});
    const auto wanted = twin_gather(test);
    const auto bytes = out.read();
    std::vector<bf16> seen(wanted.size());
    std::memcpy(seen.data(), bytes.data(), kStageBytes);
    // The factor is approximate to 2^-21, so a bf16 rounding may fall the other way: one unit in
    // the last place, at most 2^-7 of the value, or a subnormal unit.
    bool good = true;
    for (uint32_t i = 0; i < test.rows * kPanelCols; ++i) {
      const float value = to_float(wanted[i]);
      good &= same_float(to_float(seen[i]), value) ||
              (std::isfinite(value) &&
               std::fabs(to_float(seen[i]) - value) <= 0x1p-7F * std::fabs(value) + 0x1p-133F);
    }
    report.check(good, "lines " + std::to_string(test.lines) + ", rows " +
                           std::to_string(test.rows) + " of " + std::to_string(test.slot_rows));
  }
  return report.finish();
}

/// What the verbs cost, in cycles of one SM; for information.
void print_cycles(Random& random) {
  for (const float temperature : {0.0F, 1.0F}) {
    for (const uint32_t rows : {8U, 32U, 64U}) {
      CandidateCase test{random_logits(random, size_t{kHalfRows} * kColTile, Logits::kPlain),
                         {},
                         rows,
                         kColTile,
                         0,
                         128256};
      test.infos.assign(rows, {0, temperature, 0, 1.0F, 7, 3, kNoLogits});
      const long long plain = candidates_on_gpu<sm90::Accumulator>(test).cycles;
      const long long small =
          rows <= 32 ? candidates_on_gpu<sm90::SmallAccumulator>(test).cycles : 0;
      std::printf("find_candidates: %2u rows, temperature %g: %lld cycles, operands swapped %lld\n",
                  rows, temperature, plain, small);
    }
  }
  const uint32_t vocab = 128256;
  const auto logits = random_logits(random, vocab, Logits::kPlain);
  const LogitInfo kinds[] = {{0, 1.0F, 50, 1.0F, 7, 3, 0}, {0, 1.0F, 0, 0.9F, 7, 3, 0}};
  for (const LogitInfo& info : kinds) {
    long long cycles = 0;
    sample_on_gpu(all_candidates(logits, vocab, {info}), logits, vocab, {info}, &cycles);
    std::printf("sample: top_k %u, top_p %g, vocab %u: %lld cycles for %u passes\n", info.top_k,
                info.top_p, vocab, cycles, filter_passes(info, vocab));
  }
}

int run(uint32_t seed, uint32_t rounds) {
  Random random(seed);
  const bool good[] = {test_gather(random, rounds), test_candidates(random, rounds),
                       test_sample(random, rounds)};
  if (kHasTensorCore) {
    print_cycles(random);
  }
  const bool all = good[0] && good[1] && good[2];
  std::printf("%s\n", all ? "PASS" : "FAIL");
  return all ? 0 : 1;
}

}  // namespace
}  // namespace terrazzo::testing

int main(int argc, char** argv) {
  terrazzo::testing::require_gpu();
  try {
    return terrazzo::testing::run(argc > 1 ? static_cast<uint32_t>(std::atoi(argv[1])) : 1,
                                  argc > 2 ? static_cast<uint32_t>(std::atoi(argv[2])) : 160);
  } catch (const std::exception& error) {
    std::printf("FAIL %s\n", error.what());
    return 1;
  }
}
