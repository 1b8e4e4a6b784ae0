// Cuts a move of rows into blocks that fit a buffer, and fills the buffer: what a device needs to
// do the move is then one run of bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "machine/packed_model.hpp"

namespace terrazzo {

/// Rows that move together: the source's rows from `first_row` on, and which of the move they are.
struct MoveBlock {
  uint64_t first_row;
  uint64_t num_rows;             // of the source, those between that do not move included
  std::vector<uint32_t> moving;  // indices into the move, by ascending source row
};

/// Blocks that take at most `capacity_bytes` each; together the whole move. Throws `Error` where
/// not even one row fits.
std::vector<MoveBlock> cut_into_blocks(const RowMove& move, const SourceMatrix& source,
                                       uint64_t capacity_bytes);

/// Fills `buffer` with the block: values, factors, rows. Gives the number of bytes.
uint64_t fill_block(std::byte* buffer, const MoveBlock& block, const RowMove& move,
                    const SourceMatrix& source);

/// The filled block, as it is where its bytes lie at `buffer`.
RowBlock block_at(const std::byte* buffer, const MoveBlock& block, const RowMove& move,
                  const SourceMatrix& source, const WeightView& matrix);

/// The same of a whole move out of a source that repeats: fills `buffer` and gives the number of
/// bytes. Throws `Error` where they are more than `capacity_bytes`.
uint64_t fill_repeated(std::byte* buffer, uint64_t capacity_bytes, const RowMove& move,
                       const RepeatedMatrix& source);
RowBlock repeated_at(const std::byte* buffer, const RowMove& move, const RepeatedMatrix& source,
                     const WeightView& matrix);

}  // namespace terrazzo
