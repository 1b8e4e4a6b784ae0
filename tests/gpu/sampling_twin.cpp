#include "sampling_twin.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>

#include "terrazzo/tile/host/machine.hpp"

namespace terrazzo::testing {
namespace {

constexpr uint32_t kLogitsPerSlot = kSlotBytes / sizeof(float);
constexpr uint32_t kCandidatesPerSlot = kSlotBytes / sizeof(Candidate);

/// A slot and a stage, as an unchecked consumer has them.
struct Bench {
  host::Role role;
  alignas(1024) std::byte slot_bytes[kSlotBytes];
  alignas(1024) std::byte stage_bytes[kStageBytes];
  float vector[kStageVectorElems];
  host::Accumulator acc;

  host::Slot slot() { return {slot_bytes, 0, &role}; }
  host::Stage stage() { return {stage_bytes, vector, 0}; }
};

}  // namespace

std::vector<Candidate> twin_candidates(const std::vector<float>& logits, uint32_t rows,
                                       uint32_t columns, uint32_t first_id, uint32_t vocab,
                                       const std::vector<LogitInfo>& infos) {
  const auto bench = std::make_unique<Bench>();
  for (uint32_t row = 0; row < rows; ++row) {
    std::memcpy(bench->acc.values[row], &logits[row * kColTile], kColTile * sizeof(float));
  }
  host::Stage stage = bench->stage();
  find_candidates(stage, bench->acc, rows, columns, first_id, vocab, infos.data());
  std::vector<Candidate> out(rows);
  std::memcpy(out.data(), bench->stage_bytes, rows * sizeof(Candidate));
  return out;
}

std::vector<Candidate> twin_row_candidates(const float* logits, uint32_t vocab,
                                           const LogitInfo& info) {
  std::vector<Candidate> out;
  for (uint32_t first = 0; first < vocab; first += kColTile) {
    std::vector<float> tile(kColTile, std::numeric_limits<float>::quiet_NaN());
    std::memcpy(tile.data(), logits + first, std::min(kColTile, vocab - first) * sizeof(float));
    out.push_back(twin_candidates(tile, 1, kColTile, first, vocab, {info})[0]);
  }
  return out;
}

std::vector<SampledToken> twin_sample(const std::vector<Candidate>& candidates,
                                      const std::vector<float>& logits, uint32_t vocab,
                                      const std::vector<LogitInfo>& infos) {
  const auto bench = std::make_unique<Bench>();
  const auto rows = static_cast<uint32_t>(infos.size());
  const auto total = static_cast<uint32_t>(candidates.size()) / rows;
  host::Stage stage = bench->stage();
  const host::Slot slot = bench->slot();
  std::memset(stage.tile, 0xff, kStageBytes);
  clear_totals(stage, rows);
  for (uint32_t row = 0; row < rows; ++row) {
    for (uint32_t first = 0; first < total; first += kCandidatesPerSlot) {
      const uint32_t count = std::min(kCandidatesPerSlot, total - first);
      std::memcpy(slot.data, &candidates[row * total + first], count * sizeof(Candidate));
      fold_candidates(stage, row, 1, slot, 0, count);
    }
  }
  for (uint32_t row = 0; row < rows; ++row) {
    TokenFilter filter{};
    for (uint32_t pass = 0; pass < filter_passes(infos[row], vocab); ++pass) {
      begin_pass(filter, stage, row, pass, infos[row], vocab);
      for (uint32_t first = 0; first < vocab; first += kLogitsPerSlot) {
        const uint32_t count = std::min(kLogitsPerSlot, vocab - first);
        std::memcpy(slot.data, &logits[uint64_t{row} * vocab + first], count * sizeof(float));
        add_logits(filter, stage, slot, first, count, infos[row]);
      }
      end_pass(filter, stage, row, infos[row]);
    }
  }
  finish_tokens(stage, rows);
  std::vector<SampledToken> out(rows);
  std::memcpy(out.data(), stage.tile + kTokensOffset, rows * sizeof(SampledToken));
  return out;
}

std::vector<bf16> twin_gather(const GatherCase& test) {
  const auto bench = std::make_unique<Bench>();
  host::Stage stage = bench->stage();
  const host::Slot slot = bench->slot();
  const auto source = [&](uint32_t row) { return test.sources[row]; };
  std::memset(stage.tile, 0, kStageBytes);
  host::RowVector factors;
  clear(factors);
  add_values(factors, test.rows, test.lines, [&](uint32_t line, uint32_t row) {
    return test.sums[4 * (line * test.slot_rows + test.first_row + row) + source(row) % 4];
  });
  rstd(factors, test.hidden, test.eps, test.rows);
  std::memcpy(slot.data, test.tile.data(), test.tile.size() * sizeof(bf16));
  host::Panel panel;
  load_gathered_rows(panel, slot, test.first_row, test.rows, source);
  scale_panel(panel, factors, test.weight.data(), test.rows);
  store_panel(stage, panel, test.rows, [](uint32_t row) { return row; });
  std::vector<bf16> out(kStageBytes / sizeof(bf16));
  std::memcpy(out.data(), stage.tile, kStageBytes);
  return out;
}

}  // namespace terrazzo::testing
