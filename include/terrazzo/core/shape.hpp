// Sizes of a model and what follows from them for one GPU of `world`.
#pragma once

#include <cstdint>

#include "terrazzo/core/geometry.hpp"

namespace terrazzo {

struct ModelShape {
  uint32_t num_layers;
  uint32_t hidden;
  uint32_t intermediate;
  uint32_t num_heads;
  uint32_t num_kv_heads;
  uint32_t head_dim;  // 64 or 128
  uint32_t vocab;
  float norm_eps;
  uint32_t world;         // GPUs; divides num_kv_heads
  uint32_t split_tokens;  // attention splits lie at multiples of this; a multiple of kPageTokens
  // O's weight: whole on every GPU, or (of several GPUs) the input columns of the GPU's own heads.
  bool o_sharded = false;

  constexpr TERRAZZO_FN uint32_t head_panels() const { return head_dim / kPanelCols; }
  constexpr TERRAZZO_FN uint32_t group() const { return num_heads / num_kv_heads; }
  constexpr TERRAZZO_FN uint32_t padded_group() const { return round_up(group(), 8u); }
  constexpr TERRAZZO_FN uint32_t local_kv_heads() const { return num_kv_heads / world; }
  constexpr TERRAZZO_FN uint32_t local_heads() const { return num_heads / world; }
  constexpr TERRAZZO_FN uint32_t hidden_panels() const { return ceil_div(hidden, kPanelCols); }

  // One KV head's columns of the fused QKV weight: its query heads, then k, then v.
  constexpr TERRAZZO_FN uint32_t group_panels() const { return (group() + 2) * head_panels(); }
  constexpr TERRAZZO_FN uint32_t qkv_panels() const { return local_kv_heads() * group_panels(); }

  // Attention results wait for O where its weight is: at the owner of the rows, of all heads; or,
  // with O sharded, where they were computed.
  constexpr TERRAZZO_FN uint32_t attention_kv_heads() const {
    return o_sharded ? local_kv_heads() : num_kv_heads;
  }
  constexpr TERRAZZO_FN uint32_t attention_panels() const {
    return attention_kv_heads() * group() * head_panels();
  }
  /// First of a GPU's KV heads among those of the attention buffer that it writes to.
  constexpr TERRAZZO_FN uint32_t first_attention_kv_head(uint32_t gpu) const {
    return o_sharded ? 0 : gpu * local_kv_heads();
  }
  /// Where `gpu` puts the attention results of a row block.
  constexpr TERRAZZO_FN uint32_t attention_gpu(uint32_t gpu, uint32_t row_block) const {
    return o_sharded ? gpu : owner(row_block);
  }
  /// The row block's place in that GPU's attention buffer.
  constexpr TERRAZZO_FN uint32_t attention_block(uint32_t row_block) const {
    return o_sharded ? row_block : owned_index(row_block);
  }

  /// Panels of silu(gate) * up on one GPU: columns are dealt in whole panels, zeros fill the last.
  constexpr TERRAZZO_FN uint32_t act_panels() const {
    return ceil_div(ceil_div(intermediate, kPanelCols), world);
  }
  constexpr TERRAZZO_FN uint32_t gate_up_panels() const { return 2 * act_panels(); }
  /// Vocabulary panels of one GPU.
  constexpr TERRAZZO_FN uint32_t vocab_panels() const {
    return ceil_div(ceil_div(vocab, kPanelCols), world);
  }
  constexpr TERRAZZO_FN uint32_t vocab_tiles() const {
    return ceil_div(vocab_panels(), kPanelsPerColTile);
  }
  /// Bytes of one KV page of one KV head: K panels, then V panels.
  constexpr TERRAZZO_FN uint32_t page_bytes() const { return 2 * head_panels() * kHalfPanelBytes; }
  /// fp32 values of one partial attention result: output, running maximum, sum; padded to 16 bytes.
  constexpr TERRAZZO_FN uint32_t partial_elems() const { return head_dim + 4; }

  constexpr TERRAZZO_FN uint32_t owner(uint32_t row_block) const { return row_block % world; }
  constexpr TERRAZZO_FN uint32_t owned_index(uint32_t row_block) const { return row_block / world; }
};

/// What a machine is sized for; fixed before the first step.
struct StepLimits {
  uint32_t max_rows;        // token rows of a step
  uint32_t max_sequences;   // sequences of a step; also most logit rows
  uint32_t max_position;    // longest context
  uint32_t num_pages;       // KV pages of the pool (each holds kPageTokens tokens of all layers)
  uint32_t max_logit_rows;  // rows whose full logits may be asked for in one step
  uint32_t max_partials;    // partial attention results of a step

  constexpr TERRAZZO_FN uint32_t row_blocks() const { return ceil_div(max_rows, kRowBlock); }
  constexpr TERRAZZO_FN uint32_t compact_blocks() const {
    return ceil_div(max_sequences, kRowBlock);
  }
};

}  // namespace terrazzo
