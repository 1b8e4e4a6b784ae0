// Bodies of one warpgroup that call the sampling and gather verbs on one stage and one slot.
#pragma once

#include "terrazzo/tile/sm90/gather.hpp"
#include "terrazzo/tile/sm90/sampling.hpp"
#include "tile_memory.cuh"

namespace terrazzo::testing {

inline constexpr uint32_t kLogitsPerSlot = kSlotBytes / sizeof(float);
inline constexpr uint32_t kCandidatesPerSlot = kSlotBytes / sizeof(Candidate);

struct CandidateRun {
  const float* logits;  // [64][256]
  const LogitInfo* infos;
  uint32_t rows;
  uint32_t columns;
  uint32_t first_id;
  uint32_t vocab;
  std::byte* stages;  // [1 + 8][kStageBytes]: candidates, then 32 columns each
  long long* cycles;
};

template <class Acc>
struct Candidates {
  using Memory = testing::Memory;
  CandidateRun run;

  __device__ __forceinline__ void operator()(Memory& memory) const;
};

template <class Acc>
__device__ __forceinline__ void Candidates<Acc>::operator()(Memory& memory) const {
  Acc acc;
  load_accumulators(acc, run.logits);
  sm90::Stage stage = stage_of(memory);
  __syncthreads();
  const long long begin = clock64();
  find_candidates(stage, acc, run.rows, run.columns, run.first_id, run.vocab, run.infos);
  __syncthreads();
  if (sm90::thread_index() == 0) {
    *run.cycles = clock64() - begin;
  }
  copy_bytes(run.stages, memory.stage, kStageBytes);
#pragma unroll 1
  for (uint32_t piece = 0; piece < 8; ++piece) {
    store_plain_columns(stage, acc, piece * 32, run.rows);
    copy_bytes(run.stages + (1 + piece) * kStageBytes, memory.stage, kStageBytes);
  }
}

struct SampleRun {
  const Candidate* candidates;  // [rows][tiles]
  const float* logits;          // [rows][vocab rounded up to 4]
  const LogitInfo* infos;
  uint32_t rows;
  uint32_t tiles;
  uint32_t vocab;
  SampledToken* tokens;
  long long* cycles;  // of the verbs on logits
};

/// As sample's consumer: several rows' candidates in a slot, or a part of a row's.
struct Sample {
  using Memory = testing::Memory;
  SampleRun run;

  __device__ __forceinline__ void operator()(Memory& memory) const;
};

__device__ __forceinline__ void Sample::operator()(Memory& memory) const {
  sm90::Stage stage = stage_of(memory);
  const sm90::Slot slot = slot_of(memory);
  long long cycles = 0;
  clear_totals(stage, run.rows);
  const uint32_t fit = max(kCandidatesPerSlot / run.tiles, 1u);
  for (uint32_t row = 0; row < run.rows; row += fit) {
    const uint32_t rows = min(fit, run.rows - row);
    for (uint32_t first = 0; first < run.tiles; first += kCandidatesPerSlot) {
      const uint32_t count = min(kCandidatesPerSlot, run.tiles - first);
      copy_bytes(memory.slot, run.candidates + uint64_t{row} * run.tiles + first,
                 rows * count * sizeof(Candidate));
      fold_candidates(stage, row, rows, slot, 0, count);
    }
  }
  const uint64_t row_logits = round_up(run.vocab, 4u);
  for (uint32_t row = 0; row < run.rows; ++row) {
    TokenFilter filter{};
    for (uint32_t pass = 0; pass < filter_passes(run.infos[row], run.vocab); ++pass) {
      for (uint32_t first = 0; first < run.vocab; first += kLogitsPerSlot) {
        const uint32_t count = min(kLogitsPerSlot, run.vocab - first);
        copy_bytes(memory.slot, run.logits + row * row_logits + first,
                   round_up(count, 4u) * sizeof(float));
        const long long begin = clock64();
        if (first == 0) {
          begin_pass(filter, stage, row, pass, run.infos[row], run.vocab);
        }
        add_logits(filter, stage, slot, first, count, run.infos[row]);
        if (first + kLogitsPerSlot >= run.vocab) {
          end_pass(filter, stage, row, run.infos[row]);
        }
        __syncthreads();
        cycles += clock64() - begin;
      }
    }
  }
  finish_tokens(stage, run.rows);
  if (sm90::thread_index() == 0) {
    *run.cycles = cycles;
  }
  copy_bytes(run.tokens, memory.stage + kTokensOffset, run.rows * sizeof(SampledToken));
}

struct GatherRun {
  const float* sums;
  const uint32_t* sources;
  const bf16* tile;
  const bf16* weight;
  uint32_t lines;
  uint32_t slot_rows;
  uint32_t first_row;
  uint32_t rows;
  uint32_t hidden;
  float eps;
  std::byte* out;
};

struct Gather {
  using Memory = testing::Memory;
  GatherRun run;

  __device__ __forceinline__ void operator()(Memory& memory) const;
};

__device__ __forceinline__ void Gather::operator()(Memory& memory) const {
  sm90::Stage stage = stage_of(memory);
  const sm90::Slot slot = slot_of(memory);
  sm90::RowVector factors{memory.factors, kBarrier};
  for (uint32_t i = sm90::thread_index(); i < kStageBytes / 4; i += sm90::kConsumerThreads) {
    reinterpret_cast<uint32_t*>(memory.stage)[i] = 0;
  }
  const auto source = [&](uint32_t row) TERRAZZO_LAMBDA { return run.sources[row]; };
  clear(factors);
  copy_bytes(memory.slot, run.sums, run.lines * run.slot_rows * 4 * sizeof(float));
  add_values(factors, run.rows, run.lines, [&](uint32_t line, uint32_t row) TERRAZZO_LAMBDA {
    return sm90::load_shared<float>(
        slot.data + static_cast<uint32_t>(sizeof(float)) *
                        (4 * (line * run.slot_rows + run.first_row + row) + source(row) % 4));
  });
  rstd(factors, run.hidden, run.eps, run.rows);
  copy_bytes(memory.slot, run.tile, run.slot_rows * kRowBytes);
  sm90::Panel panel;
  load_gathered_rows(panel, slot, run.first_row, run.rows, source);
  scale_panel(panel, factors, run.weight, run.rows);
  store_panel(stage, panel, run.rows, [](uint32_t row) TERRAZZO_LAMBDA { return row; });
  copy_bytes(run.out, memory.stage, kStageBytes);
}

}  // namespace terrazzo::testing
