// The host machine's product and panel verbs, for comparison: the host compiler's side of
// test_product_tiles and test_panel_tiles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "terrazzo/core/bf16.hpp"
#include "terrazzo/core/geometry.hpp"

namespace terrazzo::testing {

/// What a consumer multiplies: some token rows with some panels of a 256-column tile.
struct ProductPart {
  uint32_t k_tiles;
  uint32_t first_row;
  uint32_t rows;
  uint32_t first_panel;
  uint32_t panels;
  uint32_t total_rows;  // of both consumers, where operands are swapped

  constexpr TERRAZZO_FN uint32_t token_stride() const {
    return round_up(total_rows, 8u) * kRowBytes;
  }
};

/// Where panel `panel` of k tile `k` begins.
constexpr TERRAZZO_FN uint32_t weight_offset(uint32_t k, uint32_t panel) {
  return (k * kPanelsPerColTile + panel) * kHalfPanelBytes;
}

/// A verb's form. Plain: panels of the tile. Operands swapped: most tokens of a consumer, k tiles
/// at once, and whether both weight slots are the same one.
struct ProductForm {
  uint32_t panels;
  uint32_t tokens;  // 0: plain
  uint32_t turn;
  bool is_paired;
};

/// Operands of 128 tokens and 256 output columns.
struct ProductCase {
  uint32_t k_tiles;
  std::vector<float> token_values;   // [128][64 * k_tiles], rounded to bf16
  std::vector<float> weight_values;  // [256][64 * k_tiles]
  std::vector<std::byte> tokens;     // the same as tiles: [k tile][128 rows]
  std::vector<std::byte> weights;    // [k tile][256 rows]
};

/// [64][256]: what the host's verb of this form makes of the part; 0 elsewhere.
std::vector<float> twin_product(const ProductCase& test, const ProductForm& form,
                                const ProductPart& part);

/// One result by the tensor core's exact rule (docs/performance/probes.md).
float tensor_core_product(const ProductCase& test, uint32_t token, uint32_t column);

/// Operands of the verbs on accumulators and panels.
struct PanelCase {
  uint32_t rows;
  uint32_t first_row;  // in slots
  uint32_t panel;      // of the accumulators, for what needs one
  uint32_t head_panel;
  uint32_t head_dim;
  uint32_t lines;
  uint32_t hidden;
  float eps;
  std::vector<float> accumulators;  // [64][256]
  std::vector<float> sums;          // [lines][128]
  std::vector<float> factors;       // [64]
  std::vector<float> tables;        // [64][head_dim]: cosines, then sines
  std::vector<bf16> tile;           // [128][64], as a slot holds it
  std::vector<bf16> weight;         // [64]
  std::vector<uint32_t> targets;    // [64]: rows of the tile that rows are swizzled for
};

/// What each verb makes of them; rows and columns of output panels are [64][64].
struct PanelResult {
  float sums[kHalfRows];                                            // add_lines
  float rstd[kHalfRows];                                            // rstd of these
  float scaled[kPanelsPerColTile][kHalfRows][kPanelCols];           // scale_rows, take_panel
  float added[kHalfRows][kPanelCols];                               // add_tile
  float rotated[kHalfRows][kPanelCols];                             // rotate
  float gated[kPanelsPerColTile / 2][kHalfRows][kPanelCols];        // take_gated_panel
  bf16 stored[kHalfRows][kPanelCols];                               // store_panel, as memory has it
  bf16 stored_with_sums[kHalfRows][kPanelCols];                     // store_panel_with_sums
  float squares[kHalfRows];                                         // its sums
  bf16 stored_gated[kPanelsPerColTile / 2][kHalfRows][kPanelCols];  // store_panel
  // Only with tokens as rows.
  float plain[kHalfRows][kPanelCols];     // load_plain_rows
  float gathered[kHalfRows][kPanelCols];  // load_gathered_rows
  float weighted[kHalfRows][kPanelCols];  // scale_panel
  float cleared[kHalfRows][kPanelCols];   // clear, add_tile
};

PanelResult twin_panel(const PanelCase& test);

}  // namespace terrazzo::testing
