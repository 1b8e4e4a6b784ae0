// The one place that says how a checkpoint's row becomes part of a tiled matrix; host code and a
// kernel run it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "terrazzo/vm/params.hpp"

namespace terrazzo {

/// Rows on their way from a source into a layer's matrix.
struct RowBlock {
  WeightView matrix;
  uint32_t layer;
  uint32_t rows;               // that move
  uint32_t cols;               // of the source
  const bf16* values;          // the source, [*, cols] row-major
  const int32_t* source_rows;  // [rows] of `values`
  const int32_t* target_rows;  // [rows] output rows of the matrix
  const float* scale;          // [cols] factor of a column, or null
  // A source whose values repeat: (row, col) is values[(first + row * stride + col) % period].
  uint64_t period = 0;  // 0: it does not
  uint64_t first = 0;
  uint64_t stride = 0;

  constexpr TERRAZZO_FN uint32_t chunks_per_row() const {
    return ceil_div(cols, kPanelCols) * (kPanelCols / kChunkElems);
  }
};

/// 8 columns of a source's row from `first` on; columns that it lacks become zeros.
TERRAZZO_GROUP_FN void read_line(bf16* line, const RowBlock& block, uint64_t row, uint32_t first) {
  if (block.period != 0) {
    uint64_t at = (block.first + row * block.stride + first) % block.period;
    for (uint32_t i = 0; i < kChunkElems; ++i) {
      line[i] = first + i < block.cols ? block.values[at] : bf16{};
      at = at + 1 == block.period ? 0 : at + 1;
    }
    return;
  }
  const bf16* const source = block.values + row * block.cols + first;
  if (first + kChunkElems <= block.cols) {
    if (reinterpret_cast<uintptr_t>(source) % kChunkBytes == 0) {
      std::memcpy(line, __builtin_assume_aligned(source, kChunkBytes), kChunkBytes);
    } else {
      std::memcpy(line, source, kChunkBytes);
    }
    return;
  }
  for (uint32_t i = 0; i < kChunkElems; ++i) {
    line[i] = first + i < block.cols ? source[i] : bf16{};
  }
}

/// Moves 8 columns of the `index`-th row, each value times its column's factor (fp32, rounded
/// once). Columns that the source lacks become zeros.
TERRAZZO_GROUP_FN void pack_chunk(const RowBlock& block, uint32_t index, uint32_t chunk) {
  const auto output = static_cast<uint32_t>(block.target_rows[index]);
  const uint32_t first = chunk * kChunkElems;
  alignas(kChunkBytes) bf16 line[kChunkElems];
  read_line(line, block, static_cast<uint64_t>(block.source_rows[index]), first);
  if (block.scale != nullptr) {
    for (uint32_t i = 0; i < kChunkElems && first + i < block.cols; ++i) {
      line[i] = to_bf16(to_float(line[i]) * block.scale[first + i]);
    }
  }
  std::byte* const tile =
      const_cast<std::byte*>(block.matrix.at(block.layer, output / kPanelCols, first / kPanelCols));
  std::byte* const place =
      tile + chunk_offset(output % kPanelCols, chunk % (kPanelCols / kChunkElems));
  std::memcpy(__builtin_assume_aligned(place, kChunkBytes), line, kChunkBytes);
}

/// Rows of a source on their way into a table: one after the other, padded to whole panels.
struct TableRows {
  bf16* target;     // [rows, columns of whole panels], row-major
  RowBlock source;  // without `matrix` and rows that move: all do
};

/// 8 columns of a row.
TERRAZZO_GROUP_FN void lay_chunk(const TableRows& table, uint64_t row, uint32_t chunk) {
  alignas(kChunkBytes) bf16 line[kChunkElems];
  read_line(line, table.source, row, chunk * kChunkElems);
  const uint64_t chunks = row * table.source.chunks_per_row() + chunk;
  std::byte* const place = reinterpret_cast<std::byte*>(table.target) + chunks * kChunkBytes;
  std::memcpy(__builtin_assume_aligned(place, kChunkBytes), line, kChunkBytes);
}

}  // namespace terrazzo
