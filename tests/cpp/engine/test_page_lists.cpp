// Page lists: as a plain copy of each, and not a value beyond the arrays. References in Python are
// in tests/unit/engine/test_core_arrays.py; here the sanitizer sees both ends.
#include <cstdint>
#include <random>
#include <vector>

#include "check.hpp"
#include "engine/page_lists.hpp"

namespace terrazzo {
namespace {

TERRAZZO_TEST(lists_of_all_lengths) {
  std::mt19937 random(0);
  for (uint64_t width = 1; width < 40; ++width) {
    constexpr int64_t kRows = 7;
    std::vector<int32_t> table(kRows * width);
    for (int32_t& page : table) {
      page = static_cast<int32_t>(random() % 1000);
    }
    std::vector<int64_t> rows;
    std::vector<int32_t> indptr = {0};
    std::vector<int32_t> expected;
    for (uint32_t list = 0; list < 40; ++list) {
      // The last row in full comes last: both arrays end with it.
      rows.push_back(list == 39 ? kRows - 1 : static_cast<int64_t>(random() % kRows));
      const uint64_t count = list == 39 ? width : random() % (width + 1);
      const auto first = table.begin() + rows.back() * static_cast<int64_t>(width);
      expected.insert(expected.end(), first, first + static_cast<int64_t>(count));
      indptr.push_back(static_cast<int32_t>(expected.size()));
    }
    std::vector<int32_t> page_ids(expected.size());
    gather_pages(page_ids, indptr, table, width, rows);
    CHECK(page_ids == expected);
  }
}

TERRAZZO_TEST(no_lists) {
  const std::vector<int32_t> indptr = {0};
  const std::vector<int32_t> table(4);
  gather_pages({}, indptr, table, 4, {});
  CHECK_THROWS(gather_pages({}, {}, table, 4, {}), "expected 1 values of indptr, got 0");
}

}  // namespace
}  // namespace terrazzo
