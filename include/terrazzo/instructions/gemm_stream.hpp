// The main loop that all GEMM instructions share: which slots they stream, and the multiplies.
#pragma once

#include "terrazzo/vm/consumer.hpp"
#include "terrazzo/vm/loader.hpp"

namespace terrazzo {

/// Rows of a block that one consumer owns, counted from the block's first row.
struct RowSpan {
  uint32_t begin;
  uint32_t count;
};

/// Plain tiles: 64 rows each. Small ones: halves of the tokens in whole runs of 8.
constexpr TERRAZZO_GROUP_FN RowSpan consumer_rows(const Instruction& instruction, uint32_t rows,
                                                  uint32_t consumer) {
  const uint32_t half =
      (instruction.flags & kSmallTokens) != 0 ? round_up(ceil_div(rows, 2u), 8u) : kHalfRows;
  const uint32_t first = rows < half ? rows : half;
  return consumer == 0 ? RowSpan{0, first} : RowSpan{half, rows - first};
}

/// Streaming order of a GEMM's operands.
///
/// Plain: each k tile takes 3 slots: A [128, 64], then B [256, 64] in two adjacent slots; 2 where
/// the tile has at most 2 panels.
/// Small: tokens of several k tiles share a slot; two weight panels share a slot: two k tiles of
/// one panel, or one k tile of two panels.
struct GemmStream {
  uint32_t rows;
  uint32_t panels;
  uint32_t k_panels;
  bool small;

  explicit constexpr TERRAZZO_GROUP_FN GemmStream(const Instruction& instruction)
      : rows(instruction.args.gemm.rows),
        panels(instruction.args.gemm.panels),
        k_panels(instruction.args.gemm.k_panels),
        small((instruction.flags & kSmallTokens) != 0) {}

  static constexpr uint32_t kPanelsPerSlot = kSlotBytes / kHalfPanelBytes;  // 2
  static constexpr uint32_t kWeightSlotsPerTokens = 8;
  // A token slot is given back when the next one and the weights of a k tile after that are there.
  static_assert(2 + kWeightSlotsPerTokens + kPanelsPerColTile / kPanelsPerSlot <= kNumSlots);

  // --- plain ---
  static constexpr uint32_t kNarrowPanels = kPanelsPerSlot;
  static constexpr TERRAZZO_GROUP_FN uint32_t plain_slots_per_k(uint32_t panels) {
    return panels > kNarrowPanels ? 3 : 2;
  }
  constexpr TERRAZZO_GROUP_FN uint32_t first_panels() const {
    return panels < kPanelsPerSlot ? panels : kPanelsPerSlot;
  }

  // --- small ---
  /// k tiles that consumers take at a time.
  static constexpr TERRAZZO_GROUP_FN uint32_t small_k_per_turn(uint32_t panels) {
    return panels <= kPanelsPerSlot ? 2 : 1;
  }
  constexpr TERRAZZO_GROUP_FN uint32_t token_bytes() const {
    return round_up(rows, 8u) * kRowBytes;
  }
  constexpr TERRAZZO_GROUP_FN uint32_t k_per_weight_slot() const { return panels == 1 ? 2 : 1; }
  constexpr TERRAZZO_GROUP_FN uint32_t weight_slots_per_k() const {
    return ceil_div(panels, kPanelsPerSlot);
  }
  /// Tokens stay in their slot while the weights of these k tiles pass by; were these more than the
  /// rest of the ring, the loader would come round to that slot and wait for ever.
  constexpr TERRAZZO_GROUP_FN uint32_t k_per_token_slot() const {
    const uint32_t turn = small_k_per_turn(panels);
    const uint32_t fit = kSlotBytes / token_bytes() / turn * turn;
    const uint32_t pass = kWeightSlotsPerTokens * k_per_weight_slot() / weight_slots_per_k();
    return fit < pass ? fit : pass;
  }

  constexpr TERRAZZO_GROUP_FN SlotPlan slots(uint32_t extra) const {
    if (!small) {
      const uint32_t each = plain_slots_per_k(panels);
      return {0, each * k_panels + extra, each == 3 ? kWideAlign : 1u};
    }
    const uint32_t weights =
        panels == 1 ? ceil_div(k_panels, k_per_weight_slot()) : k_panels * weight_slots_per_k();
    return {0, ceil_div(k_panels, k_per_token_slot()) + weights + extra, 1};
  }
};

template <class M>
TERRAZZO_GROUP_FN void load_plain(Loader<M>& loader, const GemmStream& stream,
                                  const std::byte* weights, uint64_t weight_stride,
                                  const std::byte* tokens) {
  const uint32_t token_bytes = stream.rows * kRowBytes;
  const uint32_t first_bytes = stream.first_panels() * kHalfPanelBytes;
  const uint32_t second_bytes = stream.panels * kHalfPanelBytes - first_bytes;
  loader.by_one_lane(GemmStream::plain_slots_per_k(stream.panels) * stream.k_panels,
                     [&](auto& slots) TERRAZZO_LAMBDA {
                       if (second_bytes == 0) {
                         for (uint32_t k = 0; k < stream.k_panels; ++k) {
                           slots.fill({tokens, weights}, {token_bytes, first_bytes});
                           tokens += kPanelBytes;
                           weights += weight_stride;
                         }
                         return;
                       }
                       for (uint32_t k = 0; k < stream.k_panels; ++k) {
                         slots.fill({tokens, weights, weights + first_bytes},
                                    {token_bytes, first_bytes, second_bytes});
                         tokens += kPanelBytes;
                         weights += weight_stride;
                       }
                     });
}

template <class M>
TERRAZZO_GROUP_FN void load_small(Loader<M>& loader, const GemmStream& stream,
                                  const std::byte* weights, uint64_t weight_stride,
                                  const std::byte* tokens) {
  const auto least = [](uint32_t a, uint32_t b) TERRAZZO_LAMBDA { return a < b ? a : b; };
  const uint32_t row_bytes = stream.rows * kRowBytes;
  const uint32_t first_bytes = stream.first_panels() * kHalfPanelBytes;
  const uint32_t second_bytes = stream.panels * kHalfPanelBytes - first_bytes;
  loader.by_one_lane(stream.slots(0).total(), [&](auto& slots) TERRAZZO_LAMBDA {
    for (uint32_t begin = 0; begin < stream.k_panels; begin += stream.k_per_token_slot()) {
      const uint32_t count = least(stream.k_per_token_slot(), stream.k_panels - begin);
      const auto token_slot = slots.fill(count * row_bytes);
      for (uint32_t k = 0; k < count; ++k, tokens += kPanelBytes) {
        slots.copy(token_slot, k * stream.token_bytes(), tokens, row_bytes);
      }
      if (stream.panels == 1) {
        uint32_t left = count;
        for (; left >= 4; left -= 4, weights += 4 * weight_stride) {
          slots.template fill_strided<2, 2>(weights, weight_stride, kHalfPanelBytes);
        }
        if (left >= 2) {
          slots.template fill_strided<1, 2>(weights, weight_stride, kHalfPanelBytes);
          weights += 2 * weight_stride;
          left -= 2;
        }
        if (left != 0) {
          slots.template fill_strided<1, 1>(weights, weight_stride, kHalfPanelBytes);
          weights += weight_stride;
        }
      } else if (second_bytes == 0) {
        uint32_t left = count;
        for (; left >= 2; left -= 2, weights += 2 * weight_stride) {
          slots.template fill_strided<2, 1>(weights, weight_stride, first_bytes);
        }
        if (left != 0) {
          slots.template fill_strided<1, 1>(weights, weight_stride, first_bytes);
          weights += weight_stride;
        }
      } else {
        for (uint32_t k = count; k > 0; --k, weights += weight_stride) {
          slots.fill({weights, weights + first_bytes}, {first_bytes, second_bytes});
        }
      }
    }
  });
}

/// Few tokens wait for every tile of the instructions before: meanwhile the weights, all of them if
/// they fit into `kPrefetchBytes`, go to L2.
template <class M>
TERRAZZO_GROUP_FN void prefetch_weights(Loader<M>& loader, const WeightView& weight,
                                        uint32_t layer) {
  constexpr uint32_t kPrefetchBytes = 256 * 1024;  // of 132 SMs together 34 MB of an L2 of 50
  const GemmStream stream(loader.instruction());
  if (!stream.small || !loader.would_block(0)) {
    return;
  }
  const uint32_t panel = loader.instruction().args.gemm.first_panel;
  const uint32_t bytes = stream.panels * kHalfPanelBytes;
  const uint32_t most = kPrefetchBytes / bytes;
  loader.for_each_lane(stream.k_panels < most ? stream.k_panels : most,
                       [&](uint32_t k) TERRAZZO_LAMBDA {
                         loader.prefetch_from_lane(weight.at(layer, panel, k), bytes);
                       });
}

/// Streams weights and tokens. `tokens`: the [128, 64] tile of the rows' first k panel; the others
/// follow it. The addresses advance by constant strides: the loader has no time to work them out
/// for each slot.
template <class M>
TERRAZZO_GROUP_FN void load_gemm(Loader<M>& loader, const WeightView& weight, uint32_t layer,
                                 const std::byte* tokens) {
  const GemmStream stream(loader.instruction());
  const std::byte* const weights = weight.at(layer, loader.instruction().args.gemm.first_panel, 0);
  const uint64_t weight_stride = static_cast<uint64_t>(
      weight.at(layer, loader.instruction().args.gemm.first_panel, 1) - weights);
  if (stream.small) {
    load_small(loader, stream, weights, weight_stride, tokens);
  } else {
    load_plain(loader, stream, weights, weight_stride, tokens);
  }
}

/// acc = rows of this consumer times the weight, for a tile of up to `kPanels` panels. One multiply
/// is left running while the next slots arrive; `beside_last` is called while the last one runs.
template <class M, uint32_t kPanels, class BesideLast>
TERRAZZO_GROUP_FN void multiply_plain(typename M::Accumulator& acc, Consumer<M>& consumer,
                                      RowSpan span, BesideLast beside_last) {
  constexpr uint32_t kSlots = GemmStream::plain_slots_per_k(kPanels);
  const GemmStream stream(consumer.instruction());
  clear(acc, span.count);
  typename M::Slot last[kSlots]{};
  for (uint32_t k = 0; k < stream.k_panels; ++k) {
    typename M::Slot slots[kSlots];
    consumer.use_run(slots);
    mma_async<kPanels>(acc, slots[0], span.begin, slots[1], slots[kSlots - 1], span.count,
                       stream.panels);
    if (k != 0) {
      mma_wait<1>(acc);
      consumer.release_run(last);
    }
    TERRAZZO_UNROLL
    for (uint32_t i = 0; i < kSlots; ++i) {
      last[i] = slots[i];
    }
  }
  beside_last();
  mma_wait<0>(acc);
  consumer.release_run(last);
}

/// The same, operands swapped: at most `kTokens` tokens of this consumer, a tile of `kPanels` (1, 2
/// or 4) panels, the last of which may be missing. A turn takes as many k tiles as fill two slots.
template <class M, uint32_t kPanels, uint32_t kTokens>
TERRAZZO_GROUP_FN void multiply_small(typename M::SmallAccumulator& acc, Consumer<M>& consumer,
                                      RowSpan span) {
  constexpr uint32_t kTurn = GemmStream::small_k_per_turn(kPanels);
  constexpr uint32_t kSlots = kPanels == 1 ? 1 : 2;  // of weights, a turn
  const GemmStream stream(consumer.instruction());
  const uint32_t k_per_token_slot = stream.k_per_token_slot();
  const uint32_t token_stride = stream.token_bytes();
  clear(acc, span.count);
  typename M::Slot tokens{};
  typename M::Slot last_tokens{};
  typename M::Slot weights[kSlots]{};
  typename M::Slot last[kSlots]{};
  uint32_t left_of_tokens = 0;  // k tiles
  uint32_t token_offset = 0;
  uint32_t k = 0;
  for (; k + kTurn <= stream.k_panels; k += kTurn) {
    const bool new_tokens = left_of_tokens == 0;
    if (new_tokens) {
      last_tokens = tokens;
      tokens = consumer.use();
      token_offset = span.begin * kRowBytes;
      left_of_tokens = k_per_token_slot;
    }
    TERRAZZO_UNROLL
    for (uint32_t i = 0; i < kSlots; ++i) {
      last[i] = weights[i];
    }
    consumer.use_run(weights);
    mma_small<kPanels, kTokens, kTurn>(acc, tokens, token_offset, token_stride, weights[0],
                                       weights[kSlots - 1], span.count, stream.panels);
    if (k != 0) {
      mma_wait<1>(acc);
      consumer.release_run(last);
      if (new_tokens) {
        consumer.release(last_tokens);
      }
    }
    left_of_tokens -= kTurn;
    token_offset += kTurn * token_stride;
  }
  mma_wait<0>(acc);
  if (k != 0) {
    consumer.release_run(weights);
  }
  if (k < stream.k_panels) {  // an odd one is left
    if (left_of_tokens == 0) {
      if (k != 0) {
        consumer.release(tokens);
      }
      tokens = consumer.use();
      token_offset = span.begin * kRowBytes;
    }
    const auto slot = consumer.use();
    mma_small<kPanels, kTokens, 1>(acc, tokens, token_offset, token_stride, slot, slot, span.count,
                                   stream.panels);
    mma_wait<0>(acc);
    consumer.release(slot);
  }
  consumer.release(tokens);
}

template <class M, uint32_t kPanels>
TERRAZZO_GROUP_FN void multiply_small_panels(typename M::SmallAccumulator& acc,
                                             Consumer<M>& consumer, RowSpan span) {
  if (span.count <= 8) {
    multiply_small<M, kPanels, 8>(acc, consumer, span);
  } else if (span.count <= 16) {
    multiply_small<M, kPanels, 16>(acc, consumer, span);
  } else {
    multiply_small<M, kPanels, 32>(acc, consumer, span);
  }
}

/// Runs the main loop in the form the instruction asks for, then `epilogue(acc, span)`; neither in
/// a consumer without rows. `beside_last` is called once before the epilogue; where it can, while
/// the last products run.
template <class M, class Epilogue, class BesideLast>
TERRAZZO_GROUP_FN void consume_gemm(Consumer<M>& consumer, Epilogue epilogue,
                                    BesideLast beside_last) {
  const Instruction& instruction = consumer.instruction();
  const uint32_t panels = instruction.args.gemm.panels;
  const RowSpan span = consumer_rows(instruction, instruction.args.gemm.rows, consumer.index());
  if (span.count == 0) {
    consumer.pass_rest();
    return;
  }
  if ((instruction.flags & kSmallTokens) == 0) {
    typename M::Accumulator acc;
    if (panels > GemmStream::kNarrowPanels) {
      multiply_plain<M, kPanelsPerColTile>(acc, consumer, span, beside_last);
    } else if (panels == GemmStream::kNarrowPanels) {
      multiply_plain<M, GemmStream::kNarrowPanels>(acc, consumer, span, beside_last);
    } else {
      multiply_plain<M, 1>(acc, consumer, span, beside_last);
    }
    epilogue(acc, span);
    return;
  }
  typename M::SmallAccumulator acc;
  if (panels == 1) {
    multiply_small_panels<M, 1>(acc, consumer, span);
  } else if (panels == 2) {
    multiply_small_panels<M, 2>(acc, consumer, span);
  } else {
    multiply_small_panels<M, 4>(acc, consumer, span);
  }
  beside_last();
  epilogue(acc, span);
}

}  // namespace terrazzo
