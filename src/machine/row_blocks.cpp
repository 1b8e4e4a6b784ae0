#include "machine/row_blocks.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <type_traits>

#include "terrazzo/core/check.hpp"

namespace terrazzo {
namespace {

constexpr uint64_t kPartAlignment = 256;

/// Where the parts of a block lie in its buffer.
struct Places {
  uint64_t values;
  uint64_t scale;
  uint64_t source_rows;
  uint64_t target_rows;
  uint64_t end;

  Places(uint64_t rows, uint64_t cols, uint64_t factors, uint64_t moving) {
    const uint64_t index_bytes = moving * sizeof(int32_t);
    values = 0;
    scale = values + round_up(rows * cols * sizeof(bf16), kPartAlignment);
    source_rows = scale + round_up(factors * sizeof(float), kPartAlignment);
    target_rows = source_rows + round_up(index_bytes, kPartAlignment);
    end = target_rows + round_up(index_bytes, kPartAlignment);
  }
};

Places places_of(const MoveBlock& block, const RowMove& move, const SourceMatrix& source) {
  return {block.num_rows, source.cols, move.column_scale.size(), block.moving.size()};
}

Places places_of(const RowMove& move, const RepeatedMatrix& source) {
  return {1, source.pool.size(), move.column_scale.size(), move.source_rows.size()};
}

}  // namespace

std::vector<MoveBlock> cut_into_blocks(const RowMove& move, const SourceMatrix& source,
                                       uint64_t capacity_bytes) {
  const auto row_of = [&](uint32_t index) {
    return static_cast<uint64_t>(move.source_rows[index]);
  };
  std::vector<uint32_t> order(move.source_rows.size());
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return row_of(a) < row_of(b); });
  std::vector<MoveBlock> blocks;
  for (size_t begin = 0; begin < order.size();) {
    const uint64_t first = row_of(order[begin]);
    const auto bytes_up_to = [&](size_t last) {
      return Places(row_of(order[last]) - first + 1, source.cols, move.column_scale.size(),
                    last - begin + 1)
          .end;
    };
    check(bytes_up_to(begin) <= capacity_bytes, "pack_rows", "a row of ", source.cols,
          " columns does not fit into a buffer of ", capacity_bytes, " bytes");
    size_t end = begin + 1;
    while (end < order.size() && bytes_up_to(end) <= capacity_bytes) {
      ++end;
    }
    blocks.push_back({first,
                      row_of(order[end - 1]) - first + 1,
                      {order.begin() + static_cast<ptrdiff_t>(begin),
                       order.begin() + static_cast<ptrdiff_t>(end)}});
    begin = end;
  }
  return blocks;
}

uint64_t fill_block(std::byte* buffer, const MoveBlock& block, const RowMove& move,
                    const SourceMatrix& source) {
  const Places places = places_of(block, move, source);
  std::memcpy(buffer + places.values, source.data + block.first_row * source.cols,
              block.num_rows * source.cols * sizeof(bf16));
  if (!move.column_scale.empty()) {
    std::memcpy(buffer + places.scale, move.column_scale.data(),
                move.column_scale.size() * sizeof(float));
  }
  auto* const source_rows = reinterpret_cast<int32_t*>(buffer + places.source_rows);
  auto* const target_rows = reinterpret_cast<int32_t*>(buffer + places.target_rows);
  for (size_t i = 0; i < block.moving.size(); ++i) {
    const uint32_t index = block.moving[i];
    source_rows[i] = move.source_rows[index] - static_cast<int32_t>(block.first_row);
    target_rows[i] = move.target_rows[index];
  }
  return places.end;
}

RowBlock block_at(const std::byte* buffer, const MoveBlock& block, const RowMove& move,
                  const SourceMatrix& source, const WeightView& matrix) {
  const Places places = places_of(block, move, source);
  return {.matrix = matrix,
          .layer = move.layer,
          .rows = static_cast<uint32_t>(block.moving.size()),
          .cols = static_cast<uint32_t>(source.cols),
          .values = reinterpret_cast<const bf16*>(buffer + places.values),
          .source_rows = reinterpret_cast<const int32_t*>(buffer + places.source_rows),
          .target_rows = reinterpret_cast<const int32_t*>(buffer + places.target_rows),
          .scale = move.column_scale.empty()
                       ? nullptr
                       : reinterpret_cast<const float*>(buffer + places.scale)};
}

uint64_t fill_repeated(std::byte* buffer, uint64_t capacity_bytes, const RowMove& move,
                       const RepeatedMatrix& source) {
  const Places places = places_of(move, source);
  check(!source.pool.empty(), "pack_repeated", "expected values, got none");
  check(places.end <= capacity_bytes, "pack_repeated", "a pool of ", source.pool.size(),
        " values and ", move.source_rows.size(), " rows do not fit into a buffer of ",
        capacity_bytes, " bytes");
  const auto put = [&](uint64_t place, const auto& values) {
    std::copy(values.begin(), values.end(),
              reinterpret_cast<std::remove_cvref_t<decltype(values[0])>*>(buffer + place));
  };
  put(places.values, source.pool);
  put(places.scale, move.column_scale);
  put(places.source_rows, move.source_rows);
  put(places.target_rows, move.target_rows);
  return places.end;
}

RowBlock repeated_at(const std::byte* buffer, const RowMove& move, const RepeatedMatrix& source,
                     const WeightView& matrix) {
  const Places places = places_of(move, source);
  return {.matrix = matrix,
          .layer = move.layer,
          .rows = static_cast<uint32_t>(move.source_rows.size()),
          .cols = static_cast<uint32_t>(source.cols),
          .values = reinterpret_cast<const bf16*>(buffer + places.values),
          .source_rows = reinterpret_cast<const int32_t*>(buffer + places.source_rows),
          .target_rows = reinterpret_cast<const int32_t*>(buffer + places.target_rows),
          .scale = move.column_scale.empty()
                       ? nullptr
                       : reinterpret_cast<const float*>(buffer + places.scale),
          .period = source.pool.size(),
          .first = source.first,
          .stride = source.stride};
}

}  // namespace terrazzo
