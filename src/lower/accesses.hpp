// The bytes of the symmetric heaps that an instruction reads and writes.
//
// Exact, and what lies between two declared ranges is not touched: rows of a tile are its valid
// ones; of a KV page the rows of tokens up to the last that is attended; of a decode query the
// `group()` lines, without those that pad the group; of a partial result whole lines of
// partial_elems(); of a row that is sampled from its logits the whole slot, padding included (all
// of it is written). All reads and writes of an instruction happen after all its waits. Data that
// is constant during a step (weights, tables, zeros) is not declared.
#pragma once

#include <cstdint>

#include "terrazzo/core/heap.hpp"
#include "terrazzo/core/isa.hpp"
#include "terrazzo/core/step_tables.hpp"

namespace terrazzo {

enum class AccessMode : uint8_t { kRead, kWrite };

struct Access {
  uint32_t gpu;  // whose heap
  Buffer buffer;
  AccessMode mode;
  uint64_t begin;  // byte range in the buffer
  uint64_t end;
};

namespace detail {

using AccessSink = void (*)(void* context, const Access& access);

void walk_accesses(const Instruction& instruction, uint32_t gpu, int32_t layer,
                   const ModelShape& shape, const StepLimits& limits, const StepTables& tables,
                   AccessSink sink, void* context);

}  // namespace detail

/// Calls sink(access) for every access of an instruction that runs on `gpu` for `layer`; adjacent
/// ranges are merged. The operands must be in range (see `operand_problem`).
template <class Sink>
void for_each_access(const Instruction& instruction, uint32_t gpu, int32_t layer,
                     const ModelShape& shape, const StepLimits& limits, const StepTables& tables,
                     Sink&& sink) {
  auto forward = [&sink](const Access& access) { sink(access); };
  detail::walk_accesses(
      instruction, gpu, layer, shape, limits, tables,
      [](void* context, const Access& access) {
        (*static_cast<decltype(forward)*>(context))(access);
      },
      &forward);
}

/// Bytes of one layer's pages in the KV pool.
constexpr uint64_t kv_layer_bytes(const ModelShape& shape, const StepLimits& limits) {
  return uint64_t{limits.num_pages} * shape.local_kv_heads() * shape.page_bytes();
}

/// Calls sink(begin, end) for the K and V rows of the first `tokens` tokens of the page at byte
/// `page`.
template <class Sink>
void for_each_page_range(const ModelShape& shape, uint64_t page, uint32_t tokens, Sink&& sink) {
  if (tokens >= kPageTokens) {
    sink(page, page + shape.page_bytes());
    return;
  }
  for (uint32_t panel = 0; panel < 2 * shape.head_panels(); ++panel) {
    const uint64_t begin = page + uint64_t{panel} * kHalfPanelBytes;
    sink(begin, begin + uint64_t{tokens} * kRowBytes);
  }
}

}  // namespace terrazzo
