#include "engine/page_lists.hpp"

#include <algorithm>
#include <cstring>

#include "terrazzo/core/check.hpp"

namespace terrazzo {
namespace {

constexpr const char* kOp = "gather_pages";
constexpr size_t kAhead = 16;  // lists; a table's row was last touched a step ago
constexpr size_t kChunk = 8;   // pages; most lists are short, and a call for each would cost more

void check_lists(std::span<int32_t> page_ids, std::span<const int32_t> indptr,
                 std::span<const int32_t> table, uint64_t width, std::span<const int64_t> row_idx) {
  check(indptr.size() == row_idx.size() + 1, kOp, "expected ", row_idx.size() + 1,
        " values of indptr, got ", indptr.size());
  check(width > 0 && table.size() % width == 0, kOp, "expected rows of ", width,
        " values, got a table of ", table.size());
  const auto num_rows = static_cast<int64_t>(table.size() / width);
  int64_t most = 0;
  int64_t least = 0;
  for (size_t i = 0; i < row_idx.size(); ++i) {
    const int64_t count = int64_t{indptr[i + 1]} - indptr[i];
    most = std::max(most, count);
    least = std::min(least, count);
    check(row_idx[i] >= 0 && row_idx[i] < num_rows, kOp, "expected rows below ", num_rows, ", got ",
          row_idx[i]);
  }
  check(least >= 0 && indptr[0] == 0, kOp, "expected indptr to start at 0 and to ascend");
  check(static_cast<uint64_t>(most) <= width, kOp, "expected lists of at most ", width,
        " values, got one of ", most);
  check(static_cast<uint64_t>(indptr.back()) == page_ids.size(), kOp, "expected room for ",
        indptr.back(), " values, got ", page_ids.size());
}

}  // namespace

void gather_pages(std::span<int32_t> page_ids, std::span<const int32_t> indptr,
                  std::span<const int32_t> table, uint64_t width,
                  std::span<const int64_t> row_idx) {
  check_lists(page_ids, indptr, table, width, row_idx);
  for (size_t i = 0; i < row_idx.size(); ++i) {
    if (i + kAhead < row_idx.size()) {
      __builtin_prefetch(table.data() + row_idx[i + kAhead] * width);
    }
    const int32_t* from = table.data() + row_idx[i] * width;
    const size_t first = indptr[i];
    const size_t count = indptr[i + 1] - first;
    const size_t rounded = (count + kChunk - 1) / kChunk * kChunk;
    int32_t* to = page_ids.data() + first;
    if (rounded > width || first + rounded > page_ids.size()) {
      std::copy_n(from, count, to);
      continue;
    }
    // What is too much is overwritten by the lists that follow.
    for (size_t done = 0; done < rounded; done += kChunk) {
      std::memcpy(to + done, from + done, kChunk * sizeof(int32_t));
    }
  }
}

}  // namespace terrazzo
