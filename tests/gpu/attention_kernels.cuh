// Bodies that call the attention verbs on one unit: a warpgroup a block, pages through three
// buffers.
#pragma once

#include <launch_block.hpp>

#include "terrazzo/arch/sm90/machine.hpp"
#include "terrazzo/instructions/attend_decode.hpp"
#include "terrazzo/instructions/attend_prefill.hpp"
#include "terrazzo/tile/sm90/attention.hpp"
#include "terrazzo/tile/sm90/panel_move.hpp"

namespace attention_test {

using namespace terrazzo;
using terrazzo::testing::BlockIndex;

constexpr uint32_t kThreads = 128;
constexpr uint32_t kBarrier = 1;
constexpr uint32_t kNanPair = 0x7fc07fc0;  // two bf16

/// One unit of prefill, and the same tokens for decode.
struct Unit {
  ModelShape shape;
  AttendPrefillArgs args;
  const std::byte*
      q;  // prefill: [head][panel][128] tiles; decode: [token][panel][padded group] tiles
  const std::byte* k;  // [page][panel] tiles
  const std::byte* v;
  float* out;          // [token][head][head dim]
  std::byte* rounded;  // [token][head][panel][128 bytes], swizzled by `target_row`
  float* partials;     // [token][split][padded group] lines
};

/// Row of the output tile that a token's result is swizzled for.
__host__ __device__ inline uint32_t target_row(const Unit& unit, uint32_t token) {
  return unit.args.row_begin + token;
}

struct Shared {
  alignas(1024) std::byte pages[3][2][kSlotBytes];  // [page % 3][keys, values]
  alignas(1024) std::byte queries[2][kSlotBytes];
  alignas(1024) std::byte scratch[kSlotBytes];
  alignas(1024) std::byte stage[kStageBytes];
  alignas(16) uint32_t ones[64];
  float maxima[sm90::kWarpsPerConsumer][kMaxDecodeHeads];
  float vector[64];
};

struct Pages {
  sm90::Slot keys;
  sm90::Slot values;
  uint32_t value_offset;
};

__device__ inline sm90::Slot slot_at(const void* data) { return {sm90::shared_address(data), 0}; }

/// All NaN but the ones.
__device__ inline void begin_block(Shared& shared) {
  for (uint32_t at = sm90::thread_index(); at < sizeof(Shared) / 4; at += kThreads) {
    reinterpret_cast<uint32_t*>(&shared)[at] = kNanPair;
  }
  __syncthreads();
  if (sm90::thread_index() < 64) {
    shared.ones[sm90::thread_index()] = 0x3f803f80;
  }
}

/// By all threads; readers of the target are done before, wgmma may read it after.
__device__ inline void fill(std::byte* target, const std::byte* source, uint32_t bytes,
                            uint32_t size, uint32_t rest) {
  for (uint32_t at = sm90::thread_index() * 4; at < size; at += kThreads * 4) {
    *reinterpret_cast<uint32_t*>(target + at) =
        at < bytes ? *reinterpret_cast<const uint32_t*>(source + at) : rest;
  }
}

/// As the loader fills a page: `tokens` rows of keys, values padded with zeros.
__device__ inline Pages take_page_of(Shared& shared, const Unit& unit, uint32_t page,
                                     uint32_t tokens) {
  const uint32_t panels = unit.shape.head_panels();
  auto& [keys, values] = shared.pages[page % 3];
  __syncthreads();
  for (uint32_t panel = 0; panel < panels; ++panel) {
    const uint64_t from = (uint64_t{page} * panels + panel) * kHalfPanelBytes;
    const uint32_t to = panel * kHalfPanelBytes;
    fill(keys + to, unit.k + from, tokens * kRowBytes, kHalfPanelBytes, kNanPair);
    fill(values + to, unit.v + from, tokens * kRowBytes, kHalfPanelBytes, 0);
  }
  sm90::fence_proxy_async_shared();
  __syncthreads();
  return {slot_at(keys), slot_at(values), 0};
}

/// `put(stage)` writes rounded rows into the stage, from the row that it returns on.
template <class AnyPanel, class Put>
__device__ inline void write_panel(Shared& shared, const Unit& unit, BlockIndex block,
                                   AnyPanel panel, uint32_t rows, uint32_t head_panel,
                                   bool rows_are_heads, uint32_t first, Put put) {
  const uint32_t heads = unit.shape.group();
  const auto token_of = [&](uint32_t row) { return rows_are_heads ? block.x : first + row; };
  const auto index_of = [&](uint32_t row) {
    return token_of(row) * heads + (rows_are_heads ? first + row : block.y);
  };
  for_each_element(panel, [&](float& value, uint32_t row, uint32_t column) {
    if (row < rows) {
      unit.out[uint64_t{index_of(row)} * unit.shape.head_dim + head_panel * kPanelCols + column] =
          value;
    }
  });
  sm90::Stage stage{sm90::shared_address(shared.stage), shared.vector, kBarrier, 0};
  const uint32_t stage_row = put(stage);
  __syncthreads();
  for (uint32_t i = sm90::thread_index(); i < rows * kRowBytes; i += kThreads) {
    const uint64_t line = uint64_t{index_of(i / kRowBytes)} * unit.shape.head_panels() + head_panel;
    unit.rounded[line * kRowBytes + i % kRowBytes] = shared.stage[stage_row * kRowBytes + i];
  }
  __syncthreads();
}

/// Heads from `first` on of the block's token.
template <class AnyPanel>
__device__ inline void write_heads(Shared& shared, const Unit& unit, BlockIndex block,
                                   const AnyPanel& panel, uint32_t heads, uint32_t head_panel,
                                   uint32_t first) {
  write_panel(shared, unit, block, panel, heads, head_panel, true, first, [&](sm90::Stage& stage) {
    store_panel(stage, panel, heads, [&](uint32_t) { return target_row(unit, block.x); });
    return 0u;
  });
}

/// Grid: halves, heads.
template <uint32_t kPanels>
struct Prefill {
  using Memory = Shared;
  Unit unit;

  __device__ __forceinline__ void operator()(Shared& shared, BlockIndex block) const;
};

template <uint32_t kPanels>
__device__ __forceinline__ void Prefill<kPanels>::operator()(Shared& shared,
                                                             BlockIndex block) const {
  begin_block(shared);
  const AttendPrefillArgs& args = unit.args;
  const ModelShape& shape = unit.shape;
  const auto span = AttendPrefill::rows_of(args, block.x);
  if (span.count == 0) {
    return;
  }
  sm90::PrefillQueries<kPanels> queries{};
  queries.ones = sm90::shared_address(shared.ones);
  TERRAZZO_UNROLL
  for (uint32_t panel = 0; panel < kPanels; ++panel) {
    fill(shared.queries[panel], unit.q + (uint64_t{block.y} * kPanels + panel) * kPanelBytes,
         kPanelBytes, kPanelBytes, 0);
    __syncthreads();
    load_queries(queries, panel, slot_at(shared.queries[panel]), 0, span.begin, span.count);
  }
  const uint32_t first_position = args.position + span.begin - args.row_begin;
  const uint32_t tokens = AttendPrefill::last_tokens(args);
  const uint32_t pages = AttendPrefill::num_pages(args);  // also those later than this half's rows
  const uint32_t split = shape.split_tokens / kPageTokens;
  sm90::PrefillAttention<kPanels> part;
  sm90::PrefillTotal<kPanels> total;
  for (uint32_t begin = 0; begin < pages; begin += split) {
    clear(part, span.count, shape.head_dim);
    Pages next{};
    uint32_t at = begin;
    const auto take = [&] {
      next = take_page_of(shared, unit, at, page_tokens(tokens, at));
      ++at;
      return next.keys;
    };
    attend_pages_ahead(
        part, queries, begin, min(begin + split, pages), (first_position + 1) / kPageTokens,
        span.count, shape, take, [](bool) { return true; },
        [&](sm90::Slot& keys, bool more, bool) {
          const Pages page = next;
          keys = more ? take() : keys;
          return page;
        },
        [](const sm90::Slot&) {}, [](const Pages&) {},
        [&](uint32_t page, uint32_t row) { return page_tokens(first_position + row + 1, page); });
    if (begin != 0) {
      fold_back(part, total, span.count, shape.head_dim);
    }
    save(total, part, span.count, shape.head_dim);
  }
  for (uint32_t panel = 0; panel < kPanels; ++panel) {
    const auto values = take_attention(part, panel, span.count, shape.head_dim);
    write_panel(shared, unit, block, values, span.count, panel, false, span.begin - args.row_begin,
                [&](sm90::Stage& stage) {
                  store_rows(stage, values, span.begin % kHalfRows, span.count);
                  return span.begin % kHalfRows;
                });
  }
}

/// Grid: tokens. With `partials`, every split's result goes there, else the finished row to `out`.
template <uint32_t kPanels, uint32_t kGroups>
struct Decode {
  using Memory = Shared;
  Unit unit;

  __device__ __forceinline__ void operator()(Shared& shared, BlockIndex block) const;
};

template <uint32_t kPanels, uint32_t kGroups>
__device__ __forceinline__ void Decode<kPanels, kGroups>::operator()(Shared& shared,
                                                                     BlockIndex block) const {
  begin_block(shared);
  const ModelShape& shape = unit.shape;
  const uint32_t group = shape.group();
  const uint32_t tile_bytes = shape.padded_group() * kRowBytes;
  const uint32_t context = unit.args.position + block.x + 1;
  sm90::DecodeQueries<kPanels, kGroups> queries{
      sm90::shared_address(shared.scratch), kBarrier, sm90::shared_address(shared.maxima), {}};
  for (uint32_t panel = 0; panel < kPanels; ++panel) {
    fill(shared.queries[0] + panel * tile_bytes,
         unit.q + (uint64_t{block.x} * kPanels + panel) * tile_bytes, group * kRowBytes, tile_bytes,
         kNanPair);
  }
  __syncthreads();
#pragma unroll
  for (uint32_t panel = 0; panel < kPanels; ++panel) {
    load_queries(queries, panel, slot_at(shared.queries[0]), panel * tile_bytes, 0, group);
  }
  const uint32_t pages = ceil_div(context, kPageTokens);
  const uint32_t split = shape.split_tokens / kPageTokens;
  const uint32_t max_splits = ceil_div(AttendPrefill::num_pages(unit.args), split);
  sm90::DecodeAttention<kPanels, kGroups> total;
  sm90::DecodeAttention<kPanels, kGroups> part;
  clear(total, group, shape.head_dim);
  for (uint32_t begin = 0; begin < pages; begin += split) {
    clear(part, group, shape.head_dim);
    attend_pages(
        part, queries, begin, min(begin + split, pages), group, shape,
        [&](uint32_t page) { return take_page_of(shared, unit, page, page_tokens(context, page)); },
        [](const Pages&) {}, [](const Pages&) {},
        [&](uint32_t page, uint32_t) { return page_tokens(context, page); });
    if (unit.partials == nullptr) {
      fold(total, part, group, shape.head_dim);
      continue;
    }
    for (uint32_t first = 0; first < group; first += kPartialRowsPerStage) {
      const uint32_t rows = AttendDecode::partial_rows(shape, first);
      sm90::Stage stage{sm90::shared_address(shared.stage), shared.vector, kBarrier, 0};
      __syncthreads();
      store_partial(stage, part, first, rows, shape);
      __syncthreads();
      const uint64_t line =
          (uint64_t{block.x} * max_splits + begin / split) * shape.padded_group() + first;
      for (uint32_t i = sm90::thread_index(); i < rows * shape.partial_elems(); i += kThreads) {
        unit.partials[line * shape.partial_elems() + i] =
            reinterpret_cast<const float*>(shared.stage)[i];
      }
    }
  }
  for (uint32_t panel = 0; panel < kPanels && unit.partials == nullptr; ++panel) {
    write_heads(shared, unit, block, take_attention(total, panel, group, shape.head_dim), group,
                panel, 0);
  }
}

/// Grid: tokens, chunks of 8 heads.
template <uint32_t kPanels>
struct Merge {
  using Memory = Shared;
  Unit unit;

  __device__ __forceinline__ void operator()(Shared& shared, BlockIndex block) const;
};

template <uint32_t kPanels>
__device__ __forceinline__ void Merge<kPanels>::operator()(Shared& shared, BlockIndex block) const {
  begin_block(shared);
  const ModelShape& shape = unit.shape;
  const uint32_t first = block.y * kPartialRowsPerStage;
  const uint32_t heads = AttendDecode::partial_rows(shape, first);
  const uint32_t split = shape.split_tokens / kPageTokens;
  const uint32_t max_splits = ceil_div(AttendPrefill::num_pages(unit.args), split);
  const uint32_t splits = ceil_div(unit.args.position + block.x + 1, shape.split_tokens);
  sm90::DecodeAttention<kPanels, 1> total;
  sm90::DecodeAttention<kPanels, 1> part;
  clear(total, heads, shape.head_dim);
  for (uint32_t i = 0; i < splits; ++i) {
    const uint64_t line = (uint64_t{block.x} * max_splits + i) * shape.padded_group() + first;
    const uint32_t bytes = heads * shape.partial_elems() * 4;
    __syncthreads();
    fill(shared.scratch,
         reinterpret_cast<const std::byte*>(unit.partials + line * shape.partial_elems()), bytes,
         bytes, 0);
    __syncthreads();
    load_partial(part, slot_at(shared.scratch), heads, shape);
    fold(total, part, heads, shape.head_dim);
  }
  for (uint32_t panel = 0; panel < kPanels; ++panel) {
    write_heads(shared, unit, block, take_attention(total, panel, heads, shape.head_dim), heads,
                panel, first);
  }
}

}  // namespace attention_test
