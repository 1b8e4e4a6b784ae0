// The main loop that all GEMM instructions share: which slots they stream, and the multiplies.
#pragma once

#include <type_traits>

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
  static_assert(1 + kWeightSlotsPerTokens <= kNumSlots);

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
      return {0, each * k_panels + extra, each == 3 ? 3u : 1u};
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

/// Within `by_one_lane`: few tokens wait for every tile of the instructions before. Their first
/// weights are on their way to slots by now, `k_done` k tiles; more, if the wait blocks, go to L2.
template <class M>
TERRAZZO_GROUP_FN void wait_beside_weights(Loader<M>& loader, const GemmStream& stream,
                                           uint32_t k_done, const std::byte* weights,
                                           uint64_t weight_stride) {
  constexpr uint32_t kPrefetchBytes = 256 * 1024;  // of 132 SMs together 34 MB of an L2 of 50
  if (loader.would_block_from_lane(0)) {
    const uint32_t bytes = stream.panels * kHalfPanelBytes;
    const uint32_t most = kPrefetchBytes / bytes;
    const uint32_t end = stream.k_panels < most ? stream.k_panels : most;
    for (uint32_t k = k_done; k < end; ++k, weights += weight_stride) {
      loader.prefetch_from_lane(weights, bytes);
    }
  }
  loader.wait_all_from_lane();
}

/// Token slots of several k tiles, each followed by these k tiles' weights.
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
      const auto copy_tokens = [&]() TERRAZZO_LAMBDA {
        for (uint32_t k = 0; k < count; ++k, tokens += kPanelBytes) {
          slots.copy(token_slot, k * stream.token_bytes(), tokens, row_bytes);
        }
      };
      if (begin != 0) {
        copy_tokens();
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
        uint32_t left = count;
        for (; left >= 2; left -= 2, weights += 2 * weight_stride) {
          const std::byte* const next = weights + weight_stride;
          slots.fill({weights, weights + first_bytes, next, next + first_bytes},
                     {first_bytes, second_bytes, first_bytes, second_bytes});
        }
        if (left != 0) {
          slots.fill({weights, weights + first_bytes}, {first_bytes, second_bytes});
          weights += weight_stride;
        }
      }
      if (begin == 0) {
        wait_beside_weights(loader, stream, count, weights, weight_stride);
        copy_tokens();
      }
    }
  });
}

/// For one panel and many tokens: token slots and weight slots of two k tiles each in turn.
template <class M>
TERRAZZO_GROUP_FN void load_small_paired(Loader<M>& loader, const GemmStream& stream,
                                         const std::byte* weights, uint64_t weight_stride,
                                         const std::byte* tokens) {
  constexpr uint32_t kAhead = 4;  // pairs whose weights are on their way before the wait
  static_assert(2 * kAhead <= kNumSlots);
  const uint32_t row_bytes = stream.rows * kRowBytes;
  const uint32_t token_bytes = stream.token_bytes();
  loader.by_one_lane(stream.slots(0).total(), [&](auto& slots) TERRAZZO_LAMBDA {
    const auto count_at = [&](uint32_t k)
                              TERRAZZO_LAMBDA { return k + 2 <= stream.k_panels ? 2u : 1u; };
    const auto fill_pair = [&](auto& pair, uint32_t count) TERRAZZO_LAMBDA {
      slots.fill(pair, {count * row_bytes, count * kHalfPanelBytes});
      for (uint32_t i = 0; i < count; ++i, weights += weight_stride) {
        slots.copy(pair[1], i * kHalfPanelBytes, weights, kHalfPanelBytes);
      }
    };
    const auto copy_tokens = [&](const auto& slot, uint32_t count) TERRAZZO_LAMBDA {
      for (uint32_t i = 0; i < count; ++i, tokens += kPanelBytes) {
        slots.copy(slot, i * token_bytes, tokens, row_bytes);
      }
    };
    typename M::Slot pairs[kAhead][2]{};
    uint32_t k = 0;
    TERRAZZO_UNROLL
    for (auto& pair : pairs) {
      if (k < stream.k_panels) {
        fill_pair(pair, count_at(k));
        k += count_at(k);
      }
    }
    wait_beside_weights(loader, stream, k, weights, weight_stride);
    uint32_t k_of_tokens = 0;
    TERRAZZO_UNROLL
    for (auto& pair : pairs) {
      if (k_of_tokens < k) {
        copy_tokens(pair[0], count_at(k_of_tokens));
        k_of_tokens += count_at(k_of_tokens);
      }
    }
    while (k < stream.k_panels) {
      typename M::Slot pair[2];
      const uint32_t count = count_at(k);
      fill_pair(pair, count);
      copy_tokens(pair[0], count);
      k += count;
    }
  });
}

/// Executes the instruction's waits and streams weights and tokens; what does not change during a
/// step may come before the waits. `tokens`: the [128, 64] tile of the rows' first k panel; the
/// others follow it. The addresses advance by constant strides: the loader has no time to work them
/// out for each slot.
template <class M>
TERRAZZO_GROUP_FN void load_gemm(Loader<M>& loader, const WeightView& weight, uint32_t layer,
                                 const std::byte* tokens) {
  const GemmStream stream(loader.instruction());
  const std::byte* const weights = weight.at(layer, loader.instruction().args.gemm.first_panel, 0);
  const uint64_t weight_stride = static_cast<uint64_t>(
      weight.at(layer, loader.instruction().args.gemm.first_panel, 1) - weights);
  if (!stream.small) {
    loader.wait_all();
    load_plain(loader, stream, weights, weight_stride, tokens);
    return;
  }
  if (stream.panels == 1 && stream.many_tokens()) {
    load_small_paired(loader, stream, weights, weight_stride, tokens);
  } else {
    load_small(loader, stream, weights, weight_stride, tokens);
  }
  loader.share_acquired();
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
  uint32_t left_of_tokens = 0;  // k tiles
  uint32_t token_offset = 0;
  uint32_t k = 0;
  // Slots are given back at once: what is on its way to the ring counts more than the tensor cores.
  const auto multiply = [&](const auto& weights, auto count) TERRAZZO_LAMBDA {
    constexpr uint32_t kCount = decltype(count)::value;
    constexpr uint32_t kLast = sizeof(weights) / sizeof(weights[0]) - 1;
    mma_small_async<kPanels, kTokens, kCount>(acc, tokens, token_offset, token_stride, weights[0],
                                              weights[kLast], span.count, stream.panels);
    mma_wait<0>(acc);
    consumer.release_run(weights);
    k += kCount;
    left_of_tokens -= kCount;
    token_offset += kCount * token_stride;
    if (left_of_tokens == 0 || k == stream.k_panels) {
      consumer.release(tokens);
    }
  };
  const auto use_tokens = [&]() TERRAZZO_LAMBDA {
    if (left_of_tokens == 0) {
      tokens = consumer.use();
      token_offset = span.begin * kRowBytes;
      left_of_tokens = k_per_token_slot;
    }
  };
  while (k + kTurn <= stream.k_panels) {
    use_tokens();
    typename M::Slot weights[kSlots];
    consumer.use_run(weights);
    multiply(weights, std::integral_constant<uint32_t, kTurn>{});
  }
  // What is left is less than a turn: one slot after the other.
  if constexpr (kTurn == 4) {
    if (k + 2 <= stream.k_panels) {
      use_tokens();
      typename M::Slot weights[1];
      consumer.use_run(weights);
      multiply(weights, std::integral_constant<uint32_t, 2>{});
    }
  }
  if constexpr (kTurn != 1) {
    if (k < stream.k_panels) {
      use_tokens();
      typename M::Slot weights[1];
      consumer.use_run(weights);
      multiply(weights, std::integral_constant<uint32_t, 1>{});
    }
  }
}

/// For one panel and many tokens, where a token slot and a weight slot make a turn.
template <class M, uint32_t kTokens>
TERRAZZO_GROUP_FN void multiply_small_paired(typename M::SmallAccumulator& acc,
                                             Consumer<M>& consumer, RowSpan span) {
  const GemmStream stream(consumer.instruction());
  const uint32_t token_offset = span.begin * kRowBytes;
  const uint32_t token_stride = stream.token_bytes();
  clear(acc, span.count);
  uint32_t k = 0;
  const auto multiply = [&](auto count) TERRAZZO_LAMBDA {
    constexpr uint32_t kCount = decltype(count)::value;
    typename M::Slot slots[2];  // tokens, weights
    consumer.use_run(slots);
    mma_small_async<1, kTokens, kCount>(acc, slots[0], token_offset, token_stride, slots[1],
                                        slots[1], span.count, 1);
    mma_wait<0>(acc);
    consumer.release_run(slots);
    k += kCount;
  };
  while (k + 2 <= stream.k_panels) {
    multiply(std::integral_constant<uint32_t, 2>{});
  }
  if (k < stream.k_panels) {
    multiply(std::integral_constant<uint32_t, 1>{});
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
