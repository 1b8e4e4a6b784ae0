// The page lists of a step, out of a table with a row for each sequence.
#pragma once

#include <cstdint>
#include <span>

namespace terrazzo {

/// Row by row of `rows`, the first values of that row of `table`, one list after the other: list i
/// is page_ids[indptr[i] .. indptr[i + 1]). Throws, with nothing written, unless lists and rows lie
/// within their arrays.
void gather_pages(std::span<int32_t> page_ids,        // [indptr[S]]
                  std::span<const int32_t> indptr,    // [S + 1] ascending from 0
                  std::span<const int32_t> table,     // [rows, width], row-major
                  uint64_t width,                     //
                  std::span<const int64_t> row_idx);  // [S]

}  // namespace terrazzo
