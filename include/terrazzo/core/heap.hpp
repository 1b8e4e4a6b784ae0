// The symmetric heap: the same buffers at the same offsets on every GPU.
//
// Row-block buffers hold [row blocks][panels] tiles of [128, 64] bf16, swizzled (16 KB each).
#pragma once

#include <cstdint>

#include "terrazzo/core/shape.hpp"

namespace terrazzo {

enum class Buffer : uint32_t {
  kX,          // residual after a layer      [row block][hidden panels] tiles
  kX1,         // residual after attention    [row block][hidden panels] tiles
  kSumSqX,     // of kX's rows                [row block][hidden panels][128] fp32
  kSumSqX1,    // of kX1's rows               [row block][hidden panels][128] fp32
  kQPrefill,   //                             [row block][local heads][head panels] tiles
  kQDecode,    // [row][local kv head][head panels][padded group] rows of 64 bf16, swizzled by group
               // index
  kKvPool,     // [layer][page][local kv head][K panels, V panels] of [64, 64] bf16 tiles
  kAttention,  // of owned row blocks; with O sharded, of all
               //                             [attention block][attention panels] tiles
  kAct,        //                             [row block][act panels] tiles
  kPartials,   // of down, and of a sharded O [rank][owned block][hidden panels] tiles
  kCompact,    // normed rows for the LM head [compact block][hidden panels] tiles
  kCandidates,  // [compact row][world][vocab tiles] Candidate
  kLogits,      // [logits slot][world][vocab panels * 64] fp32
  kSplits,      // partial attention results   [slot][padded group][partial_elems] fp32
  kSampled,     // [compact row] SampledToken
  kZeros,       // one [64, 64] bf16 tile of zeros: the tail of a partly filled V page
  kCounters,    // [2 banks][counters]         uint32
  kCount
};
inline constexpr uint32_t kNumBuffers = static_cast<uint32_t>(Buffer::kCount);

inline constexpr const char* kBufferNames[kNumBuffers] = {
    "x",       "x1",        "sum_sq_x", "sum_sq_x1", "q_prefill", "q_decode",
    "kv_pool", "attention", "act",      "partials",  "compact",   "candidates",
    "logits",  "splits",    "sampled",  "zeros",     "counters"};

/// The best token of one vocabulary tile (256 columns) for one row, and the tile's share of the
/// softmax.
struct Candidate {
  float key;      // logit / temperature + noise, or the logit when greedy
  uint32_t id;    // its token
  float logit;    // its plain logit
  float max;      // largest plain logit of the tile
  float sum_exp;  // sum of exp(logit - max) over the tile
  float reserved[3];
};
static_assert(sizeof(Candidate) == 32);

struct SampledToken {
  int32_t token;
  float logprob;
  uint32_t reserved[2];
};
static_assert(sizeof(SampledToken) == 16);

/// Byte offsets of the buffers in every GPU's heap.
struct HeapLayout {
  uint64_t offset[kNumBuffers];
  uint64_t bytes[kNumBuffers];
  uint64_t total_bytes;

  constexpr TERRAZZO_FN uint64_t at(Buffer buffer) const {
    return offset[static_cast<uint32_t>(buffer)];
  }
  constexpr uint64_t size(Buffer buffer) const { return bytes[static_cast<uint32_t>(buffer)]; }
};

inline constexpr uint64_t kHeapAlignment = 1024;  // a swizzle atom: 8 rows of 128 bytes

/// `counters`: most counters of one bank (queue head and end counter included).
constexpr HeapLayout make_heap_layout(const ModelShape& shape, const StepLimits& limits,
                                      uint64_t counters) {
  const uint64_t blocks = limits.row_blocks();
  const uint64_t owned = ceil_div<uint64_t>(blocks, shape.world);
  const uint64_t compact = limits.compact_blocks();
  const uint64_t hidden = shape.hidden_panels();
  const uint64_t vocab_panels = uint64_t{shape.world} * shape.vocab_panels();
  const uint64_t sum_sq_bytes = blocks * hidden * kRowBlock * sizeof(float);
  const uint64_t sizes[kNumBuffers] = {
      blocks * hidden * kPanelBytes,
      blocks * hidden * kPanelBytes,
      sum_sq_bytes,
      sum_sq_bytes,
      blocks * shape.local_heads() * shape.head_panels() * kPanelBytes,
      blocks * kRowBlock * shape.local_kv_heads() * shape.head_panels() * shape.padded_group() *
          kRowBytes,
      uint64_t{shape.num_layers} * limits.num_pages * shape.local_kv_heads() * shape.page_bytes(),
      (shape.o_sharded ? blocks : owned) * shape.attention_panels() * kPanelBytes,
      blocks * shape.act_panels() * kPanelBytes,
      shape.world == 1 ? 0 : shape.world * owned * hidden * kPanelBytes,
      compact * hidden * kPanelBytes,
      compact * kRowBlock * shape.world * shape.vocab_tiles() * sizeof(Candidate),
      limits.max_logit_rows * vocab_panels * kPanelCols * sizeof(float),
      uint64_t{limits.max_partials} * shape.padded_group() * shape.partial_elems() * sizeof(float),
      compact * kRowBlock * sizeof(SampledToken),
      kHalfPanelBytes,
      2 * counters * sizeof(uint32_t),
  };
  HeapLayout layout{};
  for (uint32_t i = 0; i < kNumBuffers; ++i) {
    layout.offset[i] = layout.total_bytes;
    layout.bytes[i] = sizes[i];
    layout.total_bytes += round_up(sizes[i], kHeapAlignment);
  }
  return layout;
}

}  // namespace terrazzo
