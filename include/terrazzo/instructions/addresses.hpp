// Where tiles, rows and pages lie in the heap (see core/heap.hpp for the buffers).
#pragma once

#include "terrazzo/vm/params.hpp"

namespace terrazzo {

/// Tile `panel` of `panels` of a row block in a row-block buffer.
TERRAZZO_GROUP_FN std::byte* tile_address(const StepParams& params, uint32_t gpu, Buffer buffer,
                                          uint32_t block, uint32_t panels, uint32_t panel) {
  return params.address(gpu, buffer, (uint64_t{block} * panels + panel) * kPanelBytes);
}

/// Line `panel` of a row block in a sum-of-squares buffer: [128] fp32.
TERRAZZO_GROUP_FN float* line_address(const StepParams& params, uint32_t gpu, Buffer buffer,
                                      uint32_t block, uint32_t panel) {
  const uint64_t line = uint64_t{block} * params.shape.hidden_panels() + panel;
  return reinterpret_cast<float*>(params.address(gpu, buffer, line * kRowBlock * sizeof(float)));
}

/// K (which 0) or V (which 1) panel of a page of a local KV head: [64 tokens][64] tile.
TERRAZZO_GROUP_FN std::byte* page_address(const StepParams& params, uint32_t layer, uint32_t page,
                                          uint32_t kv_head, uint32_t which, uint32_t panel) {
  const ModelShape& shape = params.shape;
  const uint64_t index =
      (uint64_t{layer} * params.limits.num_pages + page) * shape.local_kv_heads() + kv_head;
  return params.address(
      params.gpu, Buffer::kKvPool,
      index * shape.page_bytes() + (which * shape.head_panels() + panel) * kHalfPanelBytes);
}

/// Query tile of a local head for prefill: [128 rows][64].
TERRAZZO_GROUP_FN std::byte* q_prefill_address(const StepParams& params, uint32_t block,
                                               uint32_t head, uint32_t panel) {
  const ModelShape& shape = params.shape;
  return tile_address(params, params.gpu, Buffer::kQPrefill, block,
                      shape.local_heads() * shape.head_panels(),
                      head * shape.head_panels() + panel);
}

/// Query rows of one token and local KV head for decode: [head panels][padded group][64].
TERRAZZO_GROUP_FN std::byte* q_decode_address(const StepParams& params, uint32_t row,
                                              uint32_t kv_head, uint32_t panel) {
  const ModelShape& shape = params.shape;
  const uint64_t index =
      (uint64_t{row} * shape.local_kv_heads() + kv_head) * shape.head_panels() + panel;
  return params.address(params.gpu, Buffer::kQDecode, index * shape.padded_group() * kRowBytes);
}

}  // namespace terrazzo
