// KV pages through the ring, for both forms of attention.
#pragma once

#include <type_traits>

#include "terrazzo/instructions/addresses.hpp"
#include "terrazzo/vm/consumer.hpp"
#include "terrazzo/vm/loader.hpp"

namespace terrazzo {

/// Calls f with the panels of a head as a constant, 1 or 2: those that the machine is compiled for.
template <class M, class F>
TERRAZZO_GROUP_FN void for_head_panels(const ModelShape& shape, F f) {
  if constexpr (M::kHeadPanels == 0) {
    if (shape.head_panels() == 1) {
      f(std::integral_constant<uint32_t, 1>{});
    } else {
      f(std::integral_constant<uint32_t, 2>{});
    }
  } else {
    f(std::integral_constant<uint32_t, M::kHeadPanels>{});
  }
}

/// exp(x * scale) as 2^(x * scale_log2), scale = 1 / sqrt(head_dim).
TERRAZZO_GROUP_FN float attention_scale_log2(const ModelShape& shape) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kScale64 = 0.125f;
  constexpr float kScale128 = 0.0883883476f;
  return (shape.head_dim == 64 ? kScale64 : kScale128) * kLog2E;
}

/// Tokens of page `page` among the first `tokens` of a sequence.
constexpr TERRAZZO_GROUP_FN uint32_t page_tokens(uint32_t tokens, uint32_t page) {
  const uint32_t begin = page * kPageTokens;
  if (tokens <= begin) {
    return 0;
  }
  return tokens - begin < kPageTokens ? tokens - begin : kPageTokens;
}

constexpr TERRAZZO_GROUP_FN uint32_t slots_per_page(const ModelShape& shape) {
  return shape.head_panels();  // head dimension 64: K and V share a slot; 128: a slot each
}

/// Streams the first `tokens` tokens of a page. What is left of its V panels is filled with zeros,
/// since a masked probability of 0 times stale bytes could be NaN.
template <class M>
TERRAZZO_GROUP_FN void load_page_part(Loader<M>& loader, uint32_t page, uint32_t kv_head,
                                      uint32_t tokens) {
  const StepParams& params = loader.params;
  const uint32_t panels = params.shape.head_panels();
  const uint32_t data_bytes = tokens * kRowBytes;
  const uint32_t key_bytes = panels * data_bytes;
  const uint32_t value_bytes = panels * kHalfPanelBytes;
  constexpr uint32_t kCopies = 4;  // of each of two panels the data, then the zeros
  loader.fill_run(
      slots_per_page(params.shape), kCopies,
      [&](uint32_t i) TERRAZZO_LAMBDA {
        return panels == 1 ? key_bytes + value_bytes : i == 0 ? key_bytes : value_bytes;
      },
      [&](uint32_t i, uint32_t copy) TERRAZZO_LAMBDA {
        const uint32_t place = copy / 2;  // in the slot: keys and values, or two panels
        const uint32_t which = panels == 1 ? place : i;
        const uint32_t at = place * kHalfPanelBytes;
        if (copy % 2 == 0) {
          return SlotPiece{
              at,
              page_address(params, loader.layer(), page, kv_head, which, panels == 1 ? 0 : place),
              data_bytes};
        }
        return SlotPiece{at + data_bytes, params.address(params.gpu, Buffer::kZeros, 0),
                         which == 0 ? 0 : kHalfPanelBytes - data_bytes};
      });
}

/// Within `by_one_lane`: the first `tokens` tokens of a page, in the same slots.
template <class M, class Stream>
TERRAZZO_GROUP_FN void stream_page(Loader<M>& loader, Stream& stream, uint32_t page,
                                   uint32_t kv_head, uint32_t tokens) {
  const StepParams& params = loader.params;
  const std::byte* const source = page_address(params, loader.layer(), page, kv_head, 0, 0);
  const std::byte* const zeros = params.address(params.gpu, Buffer::kZeros, 0);
  const uint32_t bytes = tokens * kRowBytes;
  const uint32_t rest = kHalfPanelBytes - bytes;
  for_head_panels<M>(params.shape, [&](auto panels) TERRAZZO_LAMBDA {
    constexpr uint32_t kPanels = decltype(panels)::value;
    if constexpr (kPanels == 1) {
      if (rest == 0) {
        stream.fill({source}, {kSlotBytes});
        return;
      }
      const auto slot = stream.fill(bytes + kHalfPanelBytes);
      stream.copy(slot, 0, source, bytes);
      stream.copy(slot, kHalfPanelBytes, source + kHalfPanelBytes, bytes);
      stream.copy(slot, kHalfPanelBytes + bytes, zeros, rest);
    } else {
      if (rest == 0) {
        stream.fill({source, source + kSlotBytes}, {kSlotBytes, kSlotBytes});
        return;
      }
      typename M::Slot slots[2];
      stream.fill(slots, {2 * bytes, kSlotBytes});
      TERRAZZO_UNROLL
      for (uint32_t at = 0; at < kSlotBytes; at += kHalfPanelBytes) {
        stream.copy(slots[0], at, source + at, bytes);
        stream.copy(slots[1], at, source + kSlotBytes + at, bytes);
        stream.copy(slots[1], at + bytes, zeros, rest);
      }
    }
  });
}

/// A page on its way through a consumer; at head dimension 64 keys and values share a slot.
template <class M>
struct PageSlots {
  typename M::Slot keys;
  typename M::Slot values;
  uint32_t value_offset;
};

/// Pages [begin, end) of one split into a clear `part`, one online-softmax update a page, one page
/// after the other. `give_keys` says that a page's scores are complete, `give_back` that the page
/// is. `limit_of(page, row)` tokens of a page are visible to a row.
template <class Part, class Queries, class TakePage, class GiveKeys, class GiveBack, class LimitOf>
TERRAZZO_GROUP_FN void attend_pages(Part& part, const Queries& queries, uint32_t begin,
                                    uint32_t end, uint32_t rows, const ModelShape& shape,
                                    TakePage take_page, GiveKeys give_keys, GiveBack give_back,
                                    LimitOf limit_of) {
  const uint32_t panels = shape.head_panels();
  const float scale_log2 = attention_scale_log2(shape);
  for (uint32_t index = begin; index < end; ++index) {
    const auto page = take_page(index);
    scores_async(part, queries, {page.keys, 0}, rows, panels);
    scores_wait<0>(part);
    give_keys(page);
    softmax(
        part, queries, rows, false,
        [&](uint32_t row) TERRAZZO_LAMBDA { return limit_of(index, row); }, scale_log2);
    rescale(part);
    output_async(part, queries, {page.values, page.value_offset}, rows, panels);
    output_wait(part);
    give_back(page);
  }
}

/// The same, the scores of a page multiplied while the output of the page before is; the last page
/// is outside the loop, since a conditional wait would serialise them. Keys go before their page.
/// All rows see pages before `whole_end` as a whole.
/// Only a page's maxima are taken beside the products of the page before: these have ended by then.
/// `look(more)` tells whether the values of these keys and, if there are `more` pages, the next
/// one's keys are there; `turn_page(keys, more, there)` waits for them. Two pages and the keys of a
/// third are held at most; `give_keys` says that the scores of these keys are complete, `give_back`
/// that the page is.
template <class Part, class Queries, class TakeKeys, class Look, class TurnPage, class GiveKeys,
          class GiveBack, class LimitOf>
TERRAZZO_GROUP_FN void attend_pages_ahead(Part& part, const Queries& queries, uint32_t begin,
                                          uint32_t end, uint32_t whole_end, uint32_t rows,
                                          const ModelShape& shape, TakeKeys take_keys, Look look,
                                          TurnPage turn_page, GiveKeys give_keys,
                                          GiveBack give_back, LimitOf limit_of) {
  const uint32_t panels = shape.head_panels();
  const float scale_log2 = attention_scale_log2(shape);
  const auto weigh = [&](uint32_t index) TERRAZZO_LAMBDA {
    take_maxima(
        part, queries, rows, index < whole_end,
        [&](uint32_t row) TERRAZZO_LAMBDA { return limit_of(index, row); }, scale_log2);
  };
  auto keys = take_keys();
  scores_async(part, queries, {keys, 0}, rows, panels);
  scores_wait<0>(part);
  give_keys(keys);
  weigh(begin);
  auto page = turn_page(keys, begin + 1 < end, false);
  take_probabilities(part, scale_log2);
  for (uint32_t index = begin + 1; index < end; ++index) {
    const bool more = index + 1 < end;
    scores_async(part, queries, {keys, 0}, rows, panels);
    const bool there = look(more);  // its answer is not needed before the products are issued
    output_async(part, queries, {page.values, page.value_offset}, rows, panels);
    scores_wait<1>(part);
    give_keys(keys);
    weigh(index);
    const auto next = turn_page(keys, more, there);
    output_wait(part);
    give_back(page);
    take_probabilities(part, scale_log2);
    page = next;
  }
  output_async(part, queries, {page.values, page.value_offset}, rows, panels);
  output_wait(part);
  give_back(page);
}

/// Tile of a head's panel in the attention buffer that this GPU's results of a row go to, and the
/// row's place in it. `head` counts the heads of that buffer.
TERRAZZO_GROUP_FN std::byte* attention_row_address(const StepParams& params, uint32_t row,
                                                   uint32_t head, uint32_t panel) {
  const uint32_t block = row / kRowBlock;
  return tile_address(params, params.shape.attention_gpu(params.gpu, block), Buffer::kAttention,
                      params.shape.attention_block(block), params.shape.attention_panels(),
                      head * params.shape.head_panels() + panel) +
         row % kRowBlock * kRowBytes;
}

}  // namespace terrazzo
