// The main loop that all GEMM instructions share: which slots they stream, and the multiplies.
#pragma once

#include <type_traits>

#include "terrazzo/vm/consumer.hpp"

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
  static constexpr uint32_t kWeightSlotsPerTokens = 4;
  // A token slot is given back when the next one and weights after that are there, and these are
  // filled together.
  static_assert(2 * (1 + kWeightSlotsPerTokens) <= kNumSlots);

  // --- plain ---
  static constexpr uint32_t kNarrowPanels = kPanelsPerSlot;
  static constexpr TERRAZZO_GROUP_FN uint32_t plain_slots_per_k(uint32_t panels) {
    return panels > kNarrowPanels ? 3 : 2;
  }
  constexpr TERRAZZO_GROUP_FN uint32_t first_panels() const {
    return panels < kPanelsPerSlot ? panels : kPanelsPerSlot;
  }

  // --- small ---
  /// k tiles that consumers take at a time: those of two weight slots; of one, where tokens are so
  /// many that each weight slot has a token slot before it.
  static constexpr TERRAZZO_GROUP_FN uint32_t small_k_per_turn(uint32_t panels, bool many_tokens) {
    return panels > kPanelsPerSlot ? 1 : panels == 1 && !many_tokens ? 4 : 2;
  }
  constexpr TERRAZZO_GROUP_FN bool many_tokens() const { return rows > kSmallRows / 2; }
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
    const uint32_t turn = small_k_per_turn(panels, many_tokens());
    const uint32_t fit = kSlotBytes / token_bytes() / turn * turn;
    const uint32_t pass = kWeightSlotsPerTokens * k_per_weight_slot() / weight_slots_per_k();
    return fit < pass ? fit : pass;
  }

  constexpr TERRAZZO_GROUP_FN SlotPlan slots(uint32_t extra) const {
    if (!small) {
      const uint32_t each = plain_slots_per_k(panels);
      return {each * k_panels + extra, each == 3 ? kWideAlign : 1u};
    }
    const uint32_t weights =
        panels == 1 ? ceil_div(k_panels, k_per_weight_slot()) : k_panels * weight_slots_per_k();
    return {ceil_div(k_panels, k_per_token_slot()) + weights + extra, 1};
  }
};

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
/// or 4) panels, the last of which may be missing.
template <class M, uint32_t kPanels, uint32_t kTokens>
TERRAZZO_GROUP_FN void multiply_small(typename M::SmallAccumulator& acc, Consumer<M>& consumer,
                                      RowSpan span) {
  constexpr bool kManyTokens = kTokens * kNumConsumers > kSmallRows / 2;
  constexpr uint32_t kTurn = GemmStream::small_k_per_turn(kPanels, kManyTokens);
  constexpr uint32_t kSlots = 2;  // of weights, a turn
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
    mma_small_async<kPanels, kTokens, kTurn>(acc, tokens, token_offset, token_stride, weights[0],
                                             weights[1], span.count, stream.panels);
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
  // What is left is less than a turn: one slot after the other.
  const auto multiply_slot = [&](auto count) TERRAZZO_LAMBDA {
    constexpr uint32_t kCount = decltype(count)::value;
    if (left_of_tokens == 0) {
      if (k != 0) {
        consumer.release(tokens);
      }
      tokens = consumer.use();
      token_offset = span.begin * kRowBytes;
      left_of_tokens = k_per_token_slot;
    }
    const auto slot = consumer.use();
    mma_small_async<kPanels, kTokens, kCount>(acc, tokens, token_offset, token_stride, slot, slot,
                                              span.count, stream.panels);
    mma_wait<0>(acc);
    consumer.release(slot);
    k += kCount;
    left_of_tokens -= kCount;
    token_offset += kCount * token_stride;
  };
  if constexpr (kTurn == 4) {
    if (k + 2 <= stream.k_panels) {
      multiply_slot(std::integral_constant<uint32_t, 2>{});
    }
  }
  if constexpr (kTurn != 1) {
    if (k < stream.k_panels) {
      multiply_slot(std::integral_constant<uint32_t, 1>{});
    }
  }
  consumer.release(tokens);
}

/// For one panel and many tokens, where a token slot and a weight slot make a turn.
template <class M, uint32_t kTokens>
TERRAZZO_GROUP_FN void multiply_small_paired(typename M::SmallAccumulator& acc,
                                             Consumer<M>& consumer, RowSpan span) {
  const GemmStream stream(consumer.instruction());
  const uint32_t token_offset = span.begin * kRowBytes;
  const uint32_t token_stride = stream.token_bytes();
  clear(acc, span.count);
  typename M::Slot slots[2]{};  // tokens, weights
  typename M::Slot last[2]{};
  uint32_t k = 0;
  for (; k + 2 <= stream.k_panels; k += 2) {
    last[0] = slots[0];
    last[1] = slots[1];
    consumer.use_run(slots);
    mma_small_async<1, kTokens, 2>(acc, slots[0], token_offset, token_stride, slots[1], slots[1],
                                   span.count, 1);
    if (k != 0) {
      mma_wait<1>(acc);
      consumer.release_run(last);
    }
  }
  mma_wait<0>(acc);
  if (k != 0) {
    consumer.release_run(slots);
  }
  if (k < stream.k_panels) {
    consumer.use_run(slots);
    mma_small_async<1, kTokens, 1>(acc, slots[0], token_offset, token_stride, slots[1], slots[1],
                                   span.count, 1);
    mma_wait<0>(acc);
    consumer.release_run(slots);
  }
}

/// By the tokens of the first consumer, so that both take the same turns.
template <class M, uint32_t kPanels>
TERRAZZO_GROUP_FN void multiply_small_panels(typename M::SmallAccumulator& acc,
                                             Consumer<M>& consumer, RowSpan span) {
  const Instruction& instruction = consumer.instruction();
  const uint32_t most = consumer_rows(instruction, instruction.args.gemm.rows, 0).count;
  if (most <= 8) {
    multiply_small<M, kPanels, 8>(acc, consumer, span);
  } else if (most <= 16) {
    multiply_small<M, kPanels, 16>(acc, consumer, span);
  } else if constexpr (kPanels == 1) {
    multiply_small_paired<M, 32>(acc, consumer, span);
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
