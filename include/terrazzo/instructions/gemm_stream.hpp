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
/// Plain: each k tile takes 3 slots: A [128, 64], then B [256, 64] in two adjacent slots.
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
  static_assert(kWeightSlotsPerTokens + 1 < kNumSlots);

  // --- plain ---
  constexpr TERRAZZO_GROUP_FN uint32_t first_panels() const {
    return panels < kPanelsPerSlot ? panels : kPanelsPerSlot;
  }

  // --- small ---
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
    const uint32_t fit = kSlotBytes / token_bytes();
    const uint32_t pass = kWeightSlotsPerTokens * k_per_weight_slot() / weight_slots_per_k();
    return fit < pass ? fit : pass;
  }

  constexpr TERRAZZO_GROUP_FN SlotPlan slots(uint32_t extra) const {
    if (!small) {
      return {0, 3 * k_panels + extra, 3};
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
  for (uint32_t k = 0; k < stream.k_panels; ++k) {
    const auto a = loader.fill(token_bytes);
    loader.copy(a, 0, tokens, token_bytes);
    const auto b0 = loader.fill(first_bytes);
    loader.copy(b0, 0, weights, first_bytes);
    const auto b1 = loader.fill(second_bytes);
    if (second_bytes != 0) {
      loader.copy(b1, 0, weights + first_bytes, second_bytes);
    }
    tokens += kPanelBytes;
    weights += weight_stride;
  }
}

template <class M>
TERRAZZO_GROUP_FN void load_small(Loader<M>& loader, const GemmStream& stream,
                                  const std::byte* weights, uint64_t weight_stride,
                                  const std::byte* tokens) {
  const auto least = [](uint32_t a, uint32_t b) TERRAZZO_LAMBDA { return a < b ? a : b; };
  const uint32_t row_bytes = stream.rows * kRowBytes;
  for (uint32_t k = 0; k < stream.k_panels; ++k, weights += weight_stride) {
    if (k % stream.k_per_token_slot() == 0) {
      const uint32_t count = least(stream.k_per_token_slot(), stream.k_panels - k);
      const auto slot = loader.fill(count * row_bytes);
      for (uint32_t i = 0; i < count; ++i) {
        loader.copy(slot, i * stream.token_bytes(), tokens + (k + i) * uint64_t{kPanelBytes},
                    row_bytes);
      }
    }
    if (stream.panels == 1) {
      if (k % stream.k_per_weight_slot() == 0) {
        const uint32_t count = least(stream.k_per_weight_slot(), stream.k_panels - k);
        const auto slot = loader.fill(count * kHalfPanelBytes);
        for (uint32_t i = 0; i < count; ++i) {
          loader.copy(slot, i * kHalfPanelBytes, weights + i * weight_stride, kHalfPanelBytes);
        }
      }
      continue;
    }
    for (uint32_t panel = 0; panel < stream.panels; panel += GemmStream::kPanelsPerSlot) {
      const uint32_t bytes =
          least(stream.panels - panel, GemmStream::kPanelsPerSlot) * kHalfPanelBytes;
      const auto slot = loader.fill(bytes);
      loader.copy(slot, 0, weights + panel * kHalfPanelBytes, bytes);
    }
  }
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

/// acc = rows of this consumer times the weight; one multiply is left running while the next slots
/// arrive.
template <class M>
TERRAZZO_GROUP_FN void multiply_plain(typename M::Accumulator& acc, Consumer<M>& consumer,
                                      RowSpan span) {
  const GemmStream stream(consumer.instruction());
  clear(acc, span.count);
  typename M::Slot last[3];
  for (uint32_t k = 0; k < stream.k_panels; ++k) {
    const auto a = consumer.use();
    const auto b0 = consumer.use();
    const auto b1 = consumer.use();
    mma_async(acc, a, span.begin, b0, b1, span.count, stream.panels);
    if (k != 0) {
      mma_wait<1>(acc);
      for (const auto& slot : last) {
        consumer.release(slot);
      }
    }
    last[0] = a;
    last[1] = b0;
    last[2] = b1;
  }
  mma_wait<0>(acc);
  for (const auto& slot : last) {
    consumer.release(slot);
  }
}

template <class M>
TERRAZZO_GROUP_FN void multiply_small(typename M::SmallAccumulator& acc, Consumer<M>& consumer,
                                      RowSpan span) {
  const GemmStream stream(consumer.instruction());
  clear(acc, span.count);
  typename M::Slot tokens{};
  typename M::Slot weights{};
  for (uint32_t k = 0; k < stream.k_panels; ++k) {
    const uint32_t token_k = k % stream.k_per_token_slot();
    if (token_k == 0) {
      tokens = consumer.use();
    }
    const uint32_t token_offset = token_k * stream.token_bytes() + span.begin * kRowBytes;
    if (stream.panels == 1) {
      const uint32_t weight_k = k % stream.k_per_weight_slot();
      if (weight_k == 0) {
        weights = consumer.use();
      }
      mma_small_async(acc, 0, tokens, token_offset, weights, weight_k * kHalfPanelBytes, span.count,
                      1);
      if (weight_k + 1 == stream.k_per_weight_slot() || k + 1 == stream.k_panels) {
        mma_wait<0>(acc);
        consumer.release(weights);
      }
    } else {
      for (uint32_t panel = 0; panel < stream.panels; panel += GemmStream::kPanelsPerSlot) {
        const uint32_t left = stream.panels - panel;
        weights = consumer.use();
        mma_small_async(acc, panel, tokens, token_offset, weights, 0, span.count,
                        left < GemmStream::kPanelsPerSlot ? left : GemmStream::kPanelsPerSlot);
        mma_wait<0>(acc);
        consumer.release(weights);
      }
    }
    if (token_k + 1 == stream.k_per_token_slot() || k + 1 == stream.k_panels) {
      consumer.release(tokens);
    }
  }
}

/// Runs the main loop in the form the instruction asks for, then `epilogue(acc, span)`.
template <class M, class Epilogue>
TERRAZZO_GROUP_FN void consume_gemm(Consumer<M>& consumer, Epilogue epilogue) {
  const Instruction& instruction = consumer.instruction();
  const RowSpan span = consumer_rows(instruction, instruction.args.gemm.rows, consumer.index());
  if ((instruction.flags & kSmallTokens) != 0) {
    typename M::SmallAccumulator acc;
    multiply_small<M>(acc, consumer, span);
    epilogue(acc, span);
  } else {
    typename M::Accumulator acc;
    multiply_plain<M>(acc, consumer, span);
    epilogue(acc, span);
  }
}

}  // namespace terrazzo
