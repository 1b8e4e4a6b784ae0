#include "attention_twin.hpp"

#include <algorithm>
#include <cstring>
#include <memory>

#include "terrazzo/instructions/attention_pages.hpp"
#include "terrazzo/tile/host/machine.hpp"

namespace terrazzo::testing {
namespace {

/// Slots and tiles, as an unchecked consumer has them.
struct Bench {
  host::Role role;
  alignas(1024) std::byte slots[3][kSlotBytes];  // queries, keys, values
  host::Queries queries;
  host::AttentionTile total;
  host::AttentionTile part;

  host::Slot slot(uint32_t index) { return {slots[index], index, &role}; }
};

/// `tokens` rows of each panel of a page; the rest is zero.
void fill_page(std::byte* slot, const std::vector<bf16>& tiles, uint32_t page, uint32_t panels,
               uint32_t tokens) {
  constexpr uint32_t kTileElems = kPageTokens * kPanelCols;
  std::memset(slot, 0, kSlotBytes);
  for (uint32_t panel = 0; panel < panels; ++panel) {
    std::memcpy(slot + panel * kHalfPanelBytes, &tiles[(page * panels + panel) * kTileElems],
                tokens * kRowBytes);
  }
}

}  // namespace

std::vector<float> twin_attention(const ModelShape& shape, uint32_t position, uint32_t rows,
                                  const std::vector<bf16>& queries, const std::vector<bf16>& keys,
                                  const std::vector<bf16>& values) {
  const auto bench = std::make_unique<Bench>();
  const uint32_t group = shape.group();
  const uint32_t panels = shape.head_panels();
  const uint32_t tile_elems = shape.padded_group() * kPanelCols;
  const uint32_t split = shape.split_tokens / kPageTokens;
  const float scale_log2 = attention_scale_log2(shape);
  std::vector<float> out(size_t{rows} * group * shape.head_dim);
  for (uint32_t token = 0; token < rows; ++token) {
    const uint32_t context = position + token + 1;
    const uint32_t pages = ceil_div(context, kPageTokens);
    for (uint32_t panel = 0; panel < panels; ++panel) {
      std::memcpy(bench->slots[0], &queries[(token * panels + panel) * tile_elems],
                  tile_elems * sizeof(bf16));
      load_queries(bench->queries, panel, bench->slot(0), 0, 0, group);
    }
    clear(bench->total, group, shape.head_dim);
    for (uint32_t begin = 0; begin < pages; begin += split) {
      clear(bench->part, group, shape.head_dim);
      for (uint32_t page = begin; page < std::min(begin + split, pages); ++page) {
        const uint32_t tokens = page_tokens(context, page);
        fill_page(bench->slots[1], keys, page, panels, tokens);
        fill_page(bench->slots[2], values, page, panels, tokens);
        scores_async(bench->part, bench->queries, {bench->slot(1), 0}, group, panels);
        host::scores_wait<0>(bench->part);
        softmax(
            bench->part, bench->queries, group, tokens == kPageTokens,
            [&](uint32_t) { return tokens; }, scale_log2);
        output_async(bench->part, bench->queries, {bench->slot(2), 0}, group, panels);
        output_wait(bench->part);
      }
      fold(bench->total, bench->part, group, shape.head_dim);
    }
    for (uint32_t panel = 0; panel < panels; ++panel) {
      const host::Panel result = take_attention(bench->total, panel, group, shape.head_dim);
      for (uint32_t head = 0; head < group; ++head) {
        std::memcpy(&out[(token * group + head) * shape.head_dim + panel * kPanelCols],
                    result.values[head], sizeof(result.values[head]));
      }
    }
  }
  return out;
}

}  // namespace terrazzo::testing
