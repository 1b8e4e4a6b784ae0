// sample: the rows' candidates of all tiles and GPUs, or their logits, -> tokens on all GPUs.
#pragma once

#include "terrazzo/instructions/gemm_stream.hpp"
#include "terrazzo/tile/sampling.hpp"
#include "terrazzo/vm/loader.hpp"
#include "terrazzo/vm/storer.hpp"

namespace terrazzo {

/// Streams the candidates of all rows, then pass by pass the logits of rows with top-k or top-p:
/// there the rows of the two consumers alternate, slot by slot. A consumer gathers its tokens in
/// one stage.
struct Sample {
  static constexpr bool kHasProducts = false;

  static constexpr uint32_t kCandidatesPerSlot = kSlotBytes / sizeof(Candidate);
  static constexpr uint32_t kLogitsPerSlot = kSlotBytes / sizeof(float);
  static constexpr uint32_t kLogitsPerCopy = 16 / sizeof(float);  // copies are whole 16 bytes

  /// The first half of the rows is consumer 0's.
  static constexpr TERRAZZO_GROUP_FN RowSpan sample_rows(const SampleArgs& args,
                                                         uint32_t consumer) {
    const uint32_t half = ceil_div(args.rows, kNumConsumers);
    return consumer == 0 ? RowSpan{0, half} : RowSpan{half, args.rows - half};
  }

  static constexpr TERRAZZO_GROUP_FN uint32_t candidates_per_row(const ModelShape& shape) {
    return shape.world * shape.vocab_tiles();
  }

  /// Calls f(row, rows, candidate, candidates) for each slot of candidates: several whole rows, or
  /// a part of one row.
  template <class F>
  static constexpr TERRAZZO_GROUP_FN void for_each_candidate_slot(const SampleArgs& args,
                                                                  const ModelShape& shape, F f) {
    const uint32_t total = candidates_per_row(shape);
    const uint32_t rows = kCandidatesPerSlot / total > 0 ? kCandidatesPerSlot / total : 1;
    for (uint32_t row = 0; row < args.rows; row += rows) {
      for (uint32_t first = 0; first < total; first += kCandidatesPerSlot) {
        f(row, least(rows, args.rows - row), first, least(kCandidatesPerSlot, total - first));
      }
    }
  }

  /// Calls f(row, pass, piece) for each slot of logits.
  template <class F>
  static constexpr TERRAZZO_GROUP_FN void for_each_logits_slot(const SampleArgs& args,
                                                               const StepParams& params, F f) {
    const uint32_t vocab = params.shape.vocab;
    const LogitInfo* const infos = params.tables.logit_rows + args.compact_row;
    for (uint32_t i = 0; i < sample_rows(args, 0).count; ++i) {
      const uint32_t passes0 = row_passes(args, infos, vocab, 0, i);
      const uint32_t passes1 = row_passes(args, infos, vocab, 1, i);
      for (uint32_t pass = 0; pass < passes0 || pass < passes1; ++pass) {
        for (uint32_t piece = 0; piece < ceil_div(vocab, kLogitsPerSlot); ++piece) {
          for (uint32_t c = 0; c < kNumConsumers; ++c) {
            if (pass < (c == 0 ? passes0 : passes1)) {
              f(sample_rows(args, c).begin + i, pass, piece);
            }
          }
        }
      }
    }
  }

  static constexpr TERRAZZO_GROUP_FN SlotPlan slots(const Instruction& instruction,
                                                    const StepParams& params) {
    const SampleArgs& args = instruction.args.sample;
    const LogitInfo* const infos = params.tables.logit_rows + args.compact_row;
    uint32_t total = 0;
    for_each_candidate_slot(args, params.shape,
                            [&](uint32_t, uint32_t, uint32_t, uint32_t)
                                TERRAZZO_LAMBDA { ++total; });
    for (uint32_t row = 0; row < args.rows; ++row) {
      total += filter_passes(infos[row], params.shape.vocab) *
               ceil_div(params.shape.vocab, kLogitsPerSlot);
    }
    return {total, 1};
  }

  template <class M>
  static TERRAZZO_GROUP_FN void load(Loader<M>& loader) {
    const SampleArgs& args = loader.instruction().args.sample;
    const StepParams& params = loader.params;
    const ModelShape& shape = params.shape;
    const LogitInfo* const infos = params.tables.logit_rows + args.compact_row;
    loader.wait_all();
    for_each_candidate_slot(
        args, shape,
        [&](uint32_t row, uint32_t rows, uint32_t candidate, uint32_t candidates) TERRAZZO_LAMBDA {
          const auto bytes = static_cast<uint32_t>(rows * candidates * sizeof(Candidate));
          const uint64_t first =
              uint64_t{args.compact_row + row} * candidates_per_row(shape) + candidate;
          const auto slot = loader.fill(bytes);
          loader.copy(slot, 0,
                      params.address(params.gpu, Buffer::kCandidates, first * sizeof(Candidate)),
                      bytes);
        });
    for_each_logits_slot(args, params, [&](uint32_t row, uint32_t, uint32_t piece) TERRAZZO_LAMBDA {
      const uint64_t slot_logits = uint64_t{shape.world} * shape.vocab_panels() * kPanelCols;
      const uint64_t first =
          infos[row].logits_slot * slot_logits + uint64_t{piece} * kLogitsPerSlot;
      const auto bytes =
          static_cast<uint32_t>(round_up(logits_in(shape, piece), kLogitsPerCopy) * sizeof(float));
      const auto slot = loader.fill(bytes);
      loader.copy(slot, 0, params.address(params.gpu, Buffer::kLogits, first * sizeof(float)),
                  bytes);
    });
  }

  template <class M>
  static TERRAZZO_GROUP_FN void consume(Consumer<M>& consumer) {
    const SampleArgs args = consumer.instruction().args.sample;
    const StepParams& params = consumer.params;
    const ModelShape& shape = params.shape;
    const RowSpan span = sample_rows(args, consumer.index());
    const LogitInfo* const infos = params.tables.logit_rows + args.compact_row;
    typename M::Stage stage{};
    if (span.count != 0) {
      stage = consumer.stage();
      clear_totals(stage, span.count);
    }
    for_each_candidate_slot(args, shape,
                            [&](uint32_t row, uint32_t rows, uint32_t, uint32_t candidates)
                                TERRAZZO_LAMBDA {
                                  const uint32_t begin = row > span.begin ? row : span.begin;
                                  const uint32_t end = least(row + rows, span.begin + span.count);
                                  const auto slot = consumer.use();
                                  if (begin < end) {
                                    fold_candidates(stage, begin - span.begin, end - begin, slot,
                                                    (begin - row) * candidates, candidates);
                                  }
                                  consumer.release(slot);
                                });
    TokenFilter filter{};
    for_each_logits_slot(
        args, params, [&](uint32_t row, uint32_t pass, uint32_t piece) TERRAZZO_LAMBDA {
          const auto slot = consumer.use();
          if (row >= span.begin && row < span.begin + span.count) {
            if (piece == 0) {
              begin_pass(filter, stage, row - span.begin, pass, infos[row], shape.vocab);
            }
            add_logits(filter, stage, slot, piece * kLogitsPerSlot, logits_in(shape, piece),
                       infos[row]);
            if (piece == (shape.vocab - 1) / kLogitsPerSlot) {
              end_pass(filter, stage, row - span.begin, infos[row]);
            }
          }
          consumer.release(slot);
        });
    if (span.count != 0) {
      finish_tokens(stage, span.count);
      consumer.publish(stage);
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void store(Storer<M>& storer) {
    const SampleArgs& args = storer.instruction().args.sample;
    const StepParams& params = storer.params;
    const RowSpan span = sample_rows(args, storer.index());
    if (span.count == 0) {
      return;
    }
    const auto stage = storer.take();
    const uint64_t offset = uint64_t{args.compact_row + span.begin} * sizeof(SampledToken);
    for (uint32_t gpu = 0; gpu < params.shape.world; ++gpu) {
      storer.store(params.address(gpu, Buffer::kSampled, offset), stage, kTokensOffset,
                   static_cast<uint32_t>(span.count * sizeof(SampledToken)));
    }
    storer.release(stage);
  }

 private:
  static constexpr TERRAZZO_GROUP_FN uint32_t least(uint32_t a, uint32_t b) {
    return a < b ? a : b;
  }

  /// Passes over the logits of a consumer's row `i`; none if it has no such row.
  static constexpr TERRAZZO_GROUP_FN uint32_t row_passes(const SampleArgs& args,
                                                         const LogitInfo* infos, uint32_t vocab,
                                                         uint32_t consumer, uint32_t i) {
    const RowSpan span = sample_rows(args, consumer);
    return i < span.count ? filter_passes(infos[span.begin + i], vocab) : 0;
  }

  /// Logits of the vocabulary in a slot; they follow one another over all GPUs, padding only at the
  /// end.
  static constexpr TERRAZZO_GROUP_FN uint32_t logits_in(const ModelShape& shape, uint32_t piece) {
    return least(kLogitsPerSlot, shape.vocab - piece * kLogitsPerSlot);
  }
};

}  // namespace terrazzo
