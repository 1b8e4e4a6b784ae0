// Sampling verbs against references that sort.
#include "check.hpp"
#include "sampling_reference.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

#include "terrazzo/tile/host/machine.hpp"

namespace {

using namespace terrazzo;
using namespace terrazzo::testing;
using host::Accumulator;
using host::Slot;
using host::Stage;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr uint32_t kLogitsPerSlot = kSlotBytes / sizeof(float);
constexpr uint32_t kCandidatesPerSlot = kSlotBytes / sizeof(Candidate);

/// One slot, two stages' worth of memory, as an unchecked consumer has them.
struct Bench {
  host::Role role;
  alignas(1024) std::byte slot_bytes[kSlotBytes];
  alignas(1024) std::byte stage_bytes[kStageBytes];
  float vector[kStageVectorElems];
  Accumulator acc;

  Slot slot() { return {slot_bytes, 0, &role}; }
  Stage stage() { return {stage_bytes, vector, 0}; }
};

LogitInfo info_of(float temperature, uint32_t top_k, float top_p, uint64_t seed = 11,
                  uint32_t position = 3) {
  return {0, temperature, top_k, top_p, seed, position, 0};
}

/// The candidates of all tiles of a row, by the verb.
std::vector<Candidate> candidates_of(Bench& bench, const std::vector<float>& logits,
                                     const LogitInfo& info) {
  const auto vocab = static_cast<uint32_t>(logits.size());
  std::vector<Candidate> out;
  for (uint32_t first = 0; first < vocab; first += kColTile) {
    for (uint32_t col = 0; col < kColTile; ++col) {
      bench.acc.values[0][col] = first + col < vocab ? logits[first + col] : 1e30F;
    }
    Stage stage = bench.stage();
    find_candidates(stage, bench.acc, 1, kColTile, first, vocab, &info);
    out.push_back(host::load_at<Candidate>(stage.tile, 0));
  }
  return out;
}

/// The walk of `sample` for one row.
SampledToken sample_row(Bench& bench, const std::vector<float>& logits, const LogitInfo& info) {
  const auto vocab = static_cast<uint32_t>(logits.size());
  const std::vector<Candidate> candidates = candidates_of(bench, logits, info);
  Stage stage = bench.stage();
  const Slot slot = bench.slot();
  std::memset(stage.tile, 0xff, kStageBytes);
  clear_totals(stage, 1);
  for (size_t first = 0; first < candidates.size(); first += kCandidatesPerSlot) {
    const size_t count = std::min<size_t>(kCandidatesPerSlot, candidates.size() - first);
    std::memcpy(slot.data, &candidates[first], count * sizeof(Candidate));
    fold_candidates(stage, 0, 1, slot, 0, static_cast<uint32_t>(count));
  }
  TokenFilter filter{};
  for (uint32_t pass = 0; pass < filter_passes(info, vocab); ++pass) {
    begin_pass(filter, stage, 0, pass, info, vocab);
    for (uint32_t first = 0; first < vocab; first += kLogitsPerSlot) {
      const uint32_t count = std::min(kLogitsPerSlot, vocab - first);
      std::memcpy(slot.data, &logits[first], count * sizeof(float));
      add_logits(filter, stage, slot, first, count, info);
    }
    end_pass(filter, stage, 0, info);
  }
  finish_tokens(stage, 1);
  return host::load_at<SampledToken>(stage.tile + kTokensOffset, 0);
}

std::vector<float> random_logits(std::mt19937& random, uint32_t vocab, float spread, bool coarse) {
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> logits(vocab);
  for (float& logit : logits) {
    logit = normal(random);
    logit = coarse ? std::round(logit) : logit;  // many ties
  }
  return logits;
}

TERRAZZO_TEST(greedy_takes_the_largest_logit_and_the_lowest_id) {
  auto bench = std::make_unique<Bench>();
  std::mt19937 random(1);
  for (const uint32_t vocab : {1U, 5U, 64U, 255U, 256U, 257U, 1000U, 4097U, 140000U}) {
    for (const bool coarse : {false, true}) {
      const auto logits = random_logits(random, vocab, 4.0F, coarse);
      const SampledToken token = sample_row(*bench, logits, info_of(0.0F, 0, 1.0F));
      CHECK_EQ(static_cast<uint32_t>(token.token), sorted_ids(logits)[0]);
      CHECK_NEAR(token.logprob, log_softmax(logits, static_cast<uint32_t>(token.token)),
                 kLogprobTolerance);
    }
  }
}

TERRAZZO_TEST(temperature_samples_by_gumbel_noise) {
  auto bench = std::make_unique<Bench>();
  std::mt19937 random(2);
  for (uint32_t round = 0; round < 60; ++round) {
    const uint32_t vocab = 1 + random() % 3000;
    const auto logits = random_logits(random, vocab, 3.0F, round % 2 == 0);
    const LogitInfo info = info_of(0.2F + 0.1F * static_cast<float>(round % 20), 0, 1.0F, round, 7);
    const SampledToken token = sample_row(*bench, logits, info);
    const auto ids = sorted_ids(logits);
    CHECK_EQ(static_cast<uint32_t>(token.token), choose(logits, ids, ids.size(), info));
    CHECK_NEAR(token.logprob, log_softmax(logits, static_cast<uint32_t>(token.token)),
               kLogprobTolerance);
    // A filter that keeps everything: the same noise, the same token, from the logits in memory.
    const SampledToken filtered =
        sample_row(*bench, logits, info_of(info.temperature, vocab, 1.0F, round, 7));
    CHECK_EQ(filtered.token, token.token);
    CHECK_EQ(filtered.logprob, token.logprob);
  }
}

TERRAZZO_TEST(top_k_and_top_p_keep_what_a_sort_keeps) {
  auto bench = std::make_unique<Bench>();
  std::mt19937 random(3);
  uint32_t compared = 0;
  uint32_t borderline = 0;
  for (uint32_t round = 0; round < 600; ++round) {
    const uint32_t vocab = round % 50 == 0 ? 9000 + random() % 5000 : 1 + random() % 700;
    const auto logits = random_logits(random, vocab, round % 3 == 0 ? 0.3F : 4.0F, round % 4 == 0);
    const uint32_t top_k = random() % 3 == 0 ? 0 : 1 + random() % (vocab + 3);
    const float top_p = random() % 3 == 0 ? 1.0F : 0.01F * static_cast<float>(1 + random() % 99);
    const float temperature = 0.05F * static_cast<float>(1 + random() % 60);
    const LogitInfo info = info_of(temperature, top_k, top_p, round, round);
    const uint32_t expected = reference_token(logits, info);
    const auto token = static_cast<uint32_t>(sample_row(*bench, logits, info).token);
    borderline += expected == kNoToken ? 1 : 0;
    if (expected != kNoToken) {
      ++compared;
      CHECK_EQ(token, expected);
    }
  }
  CHECK(compared > 500 && borderline < 20);
}

/// All tokens that a filter lets through, found by trying many positions.
std::vector<uint32_t> tokens_seen(Bench& bench, const std::vector<float>& logits, LogitInfo info,
                                  uint32_t tries) {
  std::vector<bool> seen(logits.size());
  for (uint32_t position = 0; position < tries; ++position) {
    info.output_position = position;
    seen[static_cast<uint32_t>(sample_row(bench, logits, info).token)] = true;
  }
  std::vector<uint32_t> out;
  for (uint32_t id = 0; id < seen.size(); ++id) {
    if (seen[id]) {
      out.push_back(id);
    }
  }
  return out;
}

TERRAZZO_TEST(ties_at_the_thresholds_go_to_the_lowest_ids) {
  auto bench = std::make_unique<Bench>();
  const std::vector<float> equal(300, 1.25F);
  CHECK(tokens_seen(*bench, equal, info_of(1.0F, 5, 1.0F), 300) ==
        (std::vector<uint32_t>{0, 1, 2, 3, 4}));
  // 300 equal tokens: the fewest that reach 0.99 % are 3.
  CHECK(tokens_seen(*bench, equal, info_of(1.0F, 0, 0.0099F), 300) ==
        (std::vector<uint32_t>{0, 1, 2}));
  // Of the 10 that top-k leaves, half.
  CHECK(tokens_seen(*bench, equal, info_of(1.0F, 10, 0.5F), 300) ==
        (std::vector<uint32_t>{0, 1, 2, 3, 4}));
  std::vector<float> zeros(40, -1.0F);
  zeros[7] = -0.0F;
  zeros[20] = 0.0F;
  zeros[30] = -0.0F;
  CHECK(tokens_seen(*bench, zeros, info_of(1.0F, 2, 1.0F), 100) == (std::vector<uint32_t>{7, 20}));
  std::vector<float> peak(300, 1.0F);
  peak[222] = 1.5F;
  CHECK(tokens_seen(*bench, peak, info_of(1.0F, 1, 1.0F), 50) == std::vector<uint32_t>{222});
  CHECK(tokens_seen(*bench, peak, info_of(1.0F, 0, 1e-30F), 50) == std::vector<uint32_t>{222});
  CHECK(tokens_seen(*bench, peak, info_of(1.0F, 3, 1.0F), 200) ==
        (std::vector<uint32_t>{0, 1, 222}));
}

TERRAZZO_TEST(frequencies_follow_the_filtered_softmax) {
  auto bench = std::make_unique<Bench>();
  const std::vector<float> logits{0.0F, 1.0F, 2.0F, -1.0F, 1.5F, 0.5F};
  constexpr uint32_t kDraws = 20000;
  for (const LogitInfo& base : {info_of(0.8F, 0, 1.0F), info_of(0.8F, 3, 1.0F),
                                info_of(1.3F, 0, 0.7F), info_of(1.3F, 5, 0.9F)}) {
    const auto ids = sorted_ids(logits);
    const size_t kept = num_kept(logits, ids, base, base.top_p);
    std::vector<uint32_t> counts(logits.size());
    LogitInfo info = base;
    for (info.output_position = 0; info.output_position < kDraws; ++info.output_position) {
      ++counts[static_cast<uint32_t>(sample_row(*bench, logits, info).token)];
    }
    double total = 0;
    for (size_t i = 0; i < kept; ++i) {
      total += std::exp(double{logits[ids[i]]} / double{info.temperature});
    }
    for (size_t i = 0; i < ids.size(); ++i) {
      const double p =
          i < kept ? std::exp(double{logits[ids[i]]} / double{info.temperature}) / total : 0.0;
      const double deviation = std::sqrt(p * (1 - p) * kDraws);
      CHECK_NEAR(counts[ids[i]], p * kDraws, 5 * deviation);
    }
  }
}

TERRAZZO_TEST(nan_never_wins) {
  auto bench = std::make_unique<Bench>();
  const LogitInfo rules[] = {info_of(0.0F, 0, 1.0F), info_of(1.0F, 0, 1.0F),
                             info_of(1.0F, 4, 1.0F), info_of(1.0F, 0, 0.9F),
                             info_of(1.0F, 4, 0.9F), info_of(1.0F, 100000, 0.9F)};
  for (const LogitInfo& info : rules) {
    std::vector<float> logits(700, kNaN);
    SampledToken token = sample_row(*bench, logits, info);
    CHECK_EQ(token.token, 0);
    CHECK(std::isnan(token.logprob));
    logits[613] = -3.0F;
    token = sample_row(*bench, logits, info);
    CHECK_EQ(token.token, 613);
    CHECK(std::isnan(token.logprob));  // a softmax over a NaN is none
    logits[613] = -kInf;
    CHECK_EQ(sample_row(*bench, logits, info).token, 613);
  }
}

TERRAZZO_TEST(infinities_are_ordinary_tokens) {
  auto bench = std::make_unique<Bench>();
  for (const LogitInfo& info : {info_of(0.0F, 0, 1.0F), info_of(0.7F, 0, 1.0F),
                                info_of(0.7F, 3, 1.0F), info_of(0.7F, 0, 0.5F)}) {
    std::vector<float> masked(600, -kInf);
    CHECK_EQ(sample_row(*bench, masked, info).token, 0);
    masked[300] = 2.0F;
    const SampledToken only = sample_row(*bench, masked, info);
    CHECK_EQ(only.token, 300);
    CHECK_EQ(only.logprob, 0.0F);
    std::vector<float> forced(600, 1.0F);
    forced[411] = kInf;
    CHECK_EQ(sample_row(*bench, forced, info).token, 411);
  }
}

TERRAZZO_TEST(very_low_temperatures_are_greedy) {
  auto bench = std::make_unique<Bench>();
  std::mt19937 random(4);
  const auto logits = random_logits(random, 900, 5.0F, false);
  for (const float temperature : {1e-6F, 1e-20F, 1e-38F, 1e-44F}) {
    for (const uint32_t top_k : {0U, 50U}) {
      for (const float top_p : {1.0F, 0.9F}) {
        CHECK_EQ(static_cast<uint32_t>(
                     sample_row(*bench, logits, info_of(temperature, top_k, top_p)).token),
                 sorted_ids(logits)[0]);
      }
    }
  }
}

TERRAZZO_TEST(candidates_do_not_depend_on_neighbours_or_padding) {
  auto bench = std::make_unique<Bench>();
  std::mt19937 random(5);
  const uint32_t vocab = 230;
  std::vector<float> logits = random_logits(random, kColTile, 3.0F, false);
  const LogitInfo infos[2] = {info_of(0.0F, 0, 1.0F), info_of(0.9F, 0, 1.0F)};
  Candidate alone[2];
  for (uint32_t row = 0; row < 2; ++row) {
    std::memcpy(bench->acc.values[0], logits.data(), sizeof bench->acc.values[0]);
    Stage stage = bench->stage();
    find_candidates(stage, bench->acc, 1, kColTile, 0, vocab, &infos[row]);
    alone[row] = host::load_at<Candidate>(stage.tile, 0);
  }
  std::vector<LogitInfo> rules(kHalfRows, infos[0]);
  for (uint32_t row = 0; row < kHalfRows; ++row) {
    rules[row] = infos[row % 2];
    std::memcpy(bench->acc.values[row], logits.data(), sizeof bench->acc.values[row]);
    for (uint32_t col = vocab; col < kColTile; ++col) {
      bench->acc.values[row][col] = kNaN;
    }
  }
  std::fill(std::begin(bench->acc.values[9]), std::end(bench->acc.values[9]), kNaN);
  Stage stage = bench->stage();
  find_candidates(stage, bench->acc, kHalfRows, kColTile, 0, vocab, rules.data());
  for (uint32_t row = 0; row < kHalfRows; ++row) {
    if (row != 9) {
      const auto seen = host::load_at<Candidate>(stage.tile, row);
      CHECK(std::memcmp(&seen, &alone[row % 2], sizeof seen) == 0);
    }
  }
  // A tile beyond the vocabulary loses to everything.
  find_candidates(stage, bench->acc, 1, kColTile, 512, vocab, rules.data());
  const auto none = host::load_at<Candidate>(stage.tile, 0);
  CHECK(wins(-kInf, 5, none.key, none.id) && wins(kNaN, 5, none.key, none.id));
  CHECK_EQ(none.sum_exp, 0.0F);
}

TERRAZZO_TEST(plain_columns_and_gathered_rows_keep_their_values) {
  auto bench = std::make_unique<Bench>();
  std::mt19937 random(6);
  for (auto& row : bench->acc.values) {
    for (float& value : row) {
      value = static_cast<float>(random());
    }
  }
  Stage stage = bench->stage();
  store_plain_columns(stage, bench->acc, 96, kHalfRows);
  for (uint32_t row = 0; row < kHalfRows; ++row) {
    CHECK(std::memcmp(stage.tile + row * kRowBytes, &bench->acc.values[row][96], kRowBytes) == 0);
  }

  // Rows 3, 13, 23, ... of a tile, one after the other in the slot; sums of squares beside them.
  const Slot slot = bench->slot();
  const auto source_row = [](uint32_t row) { return 3 + 10 * row; };
  constexpr uint32_t kRows = 12;
  constexpr uint32_t kFirst = 2;
  for (uint32_t row = 0; row < kRows; ++row) {
    for (uint32_t col = 0; col < kPanelCols; ++col) {
      const bf16 value = to_bf16(static_cast<float>(row * 64 + col) / 8.0F);
      std::byte* const base = slot.data + (kFirst + row) * kRowBytes;
      std::memcpy(base + element_offset(source_row(row), col) - source_row(row) * kRowBytes, &value,
                  sizeof value);
    }
  }
  host::Panel panel;
  load_gathered_rows(panel, slot, kFirst, kRows, source_row);
  host::RowVector factors;
  bf16 weight[kPanelCols];
  for (uint32_t col = 0; col < kPanelCols; ++col) {
    weight[col] = to_bf16(1.0F + static_cast<float>(col) / 64.0F);
  }
  for (uint32_t row = 0; row < kRows; ++row) {
    factors.values[row] = 0.3F + static_cast<float>(row);
    for (uint32_t col = 0; col < kPanelCols; ++col) {
      CHECK_EQ(panel.values[row][col],
               to_float(to_bf16(static_cast<float>(row * 64 + col) / 8.0F)));
    }
  }
  scale_panel(panel, factors, weight, kRows);
  CHECK_EQ(panel.values[5][7], to_float(to_bf16(327.0F / 8.0F)) * 5.3F * to_float(weight[7]));

  host::RowVector sums;
  clear(sums);
  add_values(sums, 2, 3,
             [](uint32_t line, uint32_t row) { return static_cast<float>(10 * line + row + 1); });
  CHECK_EQ(sums.values[0], 33.0F);
  CHECK_EQ(sums.values[1], 36.0F);
}

}  // namespace
