#include "tile_twin.hpp"

#include <bit>
#include <cstring>
#include <memory>

#include "mma_model.hpp"
#include "terrazzo/tile/host/machine.hpp"

namespace terrazzo::testing {
namespace {

/// Slots and a stage, as an unchecked consumer has them.
struct Bench {
  host::Role role;
  alignas(1024) std::byte slots[3][kSlotBytes];
  alignas(1024) std::byte stage_bytes[kStageBytes];
  float vector[kStageVectorElems];
  host::Accumulator acc;

  host::Slot slot(uint32_t index) { return {slots[index], index, &role}; }
  host::Stage stage() { return {stage_bytes, vector, 0}; }
};

/// Tokens in slot 0, weights in the adjacent slots 1 and 2.
template <uint32_t kPanels>
void multiply_plain(Bench& bench, const ProductCase& test, const ProductPart& part) {
  for (uint32_t k = 0; k < part.k_tiles; ++k) {
    std::memcpy(bench.slots[0], &test.tokens[k * kSlotBytes], kSlotBytes);
    std::memcpy(bench.slots[1], &test.weights[weight_offset(k, part.first_panel)],
                part.panels * kHalfPanelBytes);
    mma_async<kPanels>(bench.acc, bench.slot(0), part.first_row, bench.slot(1), bench.slot(2),
                       part.rows, part.panels);
    host::mma_wait<0>(bench.acc);
  }
}

template <uint32_t kPanels, uint32_t kCount>
void multiply_small(Bench& bench, const ProductCase& test, const ProductPart& part, uint32_t k,
                    bool is_paired) {
  const uint32_t stride = part.token_stride();
  for (uint32_t i = 0; i < kCount; ++i) {
    std::memcpy(bench.slots[0] + i * stride, &test.tokens[(k + i) * kSlotBytes], stride);
    std::memcpy(bench.slots[1] + i * kPanels * kHalfPanelBytes,
                &test.weights[weight_offset(k + i, part.first_panel)],
                part.panels * kHalfPanelBytes);
  }
  mma_small_async<kPanels, kSmallRows / 2, kCount>(
      bench.acc, bench.slot(0), part.first_row * kRowBytes, stride, bench.slot(1),
      bench.slot(is_paired ? 1 : 2), part.rows, part.panels);
  host::mma_wait<0>(bench.acc);
}

template <uint32_t kPanels, uint32_t kTurn>
void multiply_small_turns(Bench& bench, const ProductCase& test, const ProductPart& part,
                          bool is_paired) {
  uint32_t k = 0;
  for (; k + kTurn <= part.k_tiles; k += kTurn) {
    multiply_small<kPanels, kTurn>(bench, test, part, k, is_paired);
  }
  for (; k < part.k_tiles; ++k) {
    multiply_small<kPanels, 1>(bench, test, part, k, true);
  }
}

}  // namespace

std::vector<float> twin_product(const ProductCase& test, const ProductForm& form,
                                const ProductPart& part) {
  const auto bench = std::make_unique<Bench>();
  clear(bench->acc, part.rows);
  if (form.tokens == 0) {
    form.panels == 4   ? multiply_plain<4>(*bench, test, part)
    : form.panels == 2 ? multiply_plain<2>(*bench, test, part)
                       : multiply_plain<1>(*bench, test, part);
  } else {
    form.panels == 4   ? multiply_small_turns<4, 1>(*bench, test, part, false)
    : form.panels == 2 ? multiply_small_turns<2, 2>(*bench, test, part, false)
    : form.turn == 4   ? multiply_small_turns<1, 4>(*bench, test, part, false)
                       : multiply_small_turns<1, 2>(*bench, test, part, form.is_paired);
  }
  std::vector<float> out(size_t{kHalfRows} * kColTile);
  for (uint32_t row = 0; row < part.rows; ++row) {
    std::memcpy(&out[row * kColTile], bench->acc.values[row],
                part.panels * kPanelCols * sizeof(float));
  }
  return out;
}

float tensor_core_product(const ProductCase& test, uint32_t token, uint32_t column) {
  constexpr uint32_t kStep = 16;
  const uint32_t depth = test.k_tiles * kPanelCols;
  uint32_t sum = 0;
  for (uint32_t k = 0; k < depth; k += kStep) {
    uint16_t a[kStep];
    uint16_t b[kStep];
    for (uint32_t i = 0; i < kStep; ++i) {
      a[i] = to_bf16(test.token_values[token * depth + k + i]).bits;
      b[i] = to_bf16(test.weight_values[column * depth + k + i]).bits;
    }
    sum = probe::mma_step({}, a, b, sum);
  }
  return std::bit_cast<float>(sum);
}

namespace {

void copy_rows(float (&out)[kHalfRows][kPanelCols], const host::Panel& panel, uint32_t rows) {
  std::memcpy(out, panel.values, rows * sizeof(out[0]));
}

/// The stage's rows, row r as if it lay in row `target_of(r)` of its tile.
template <class TargetOf>
void copy_stage(bf16 (&out)[kHalfRows][kPanelCols], const host::Stage& stage, uint32_t rows,
                TargetOf target_of) {
  for (uint32_t row = 0; row < rows; ++row) {
    const uint32_t swizzle = target_of(row) & 7u;
    for (uint32_t col = 0; col < kPanelCols; ++col) {
      std::memcpy(&out[row][col],
                  stage.tile + row * kRowBytes + element_offset(swizzle, col) - swizzle * kRowBytes,
                  sizeof(bf16));
    }
  }
}

}  // namespace

PanelResult twin_panel(const PanelCase& test) {
  const auto bench = std::make_unique<Bench>();
  PanelResult out{};
  const uint32_t rows = test.rows;
  const host::Slot slot = bench->slot(0);
  host::Stage stage = bench->stage();
  const auto target = [&](uint32_t row) { return test.targets[row]; };
  const auto same_row = [](uint32_t row) { return row; };

  host::RowVector factors;
  clear(factors);
  std::memcpy(slot.data, test.sums.data(), test.sums.size() * sizeof(float));
  add_lines(factors, slot, test.lines, test.first_row, rows);
  std::memcpy(out.sums, factors.values, rows * sizeof(float));
  rstd(factors, test.hidden, test.eps, rows);
  std::memcpy(out.rstd, factors.values, rows * sizeof(float));

  std::memcpy(factors.values, test.factors.data(), sizeof(factors.values));
  std::memcpy(bench->acc.values, test.accumulators.data(), sizeof(bench->acc.values));
  for (uint32_t p = 0; p < kPanelsPerColTile / 2; ++p) {
    const host::Panel gated = take_gated_panel(bench->acc, p, rows);
    copy_rows(out.gated[p], gated, rows);
    store_panel(stage, gated, rows, target);
    copy_stage(out.stored_gated[p], stage, rows, target);
  }
  scale_rows(bench->acc, factors, rows, kPanelsPerColTile);
  for (uint32_t p = 0; p < kPanelsPerColTile; ++p) {
    copy_rows(out.scaled[p], take_panel(bench->acc, p, rows), rows);
  }

  std::memcpy(slot.data, test.tile.data(), test.tile.size() * sizeof(bf16));
  host::Panel panel = take_panel(bench->acc, test.panel, rows);
  add_tile(panel, slot, test.first_row, rows);
  copy_rows(out.added, panel, rows);
  store_panel(stage, panel, rows, target);
  copy_stage(out.stored, stage, rows, target);
  store_panel_with_sums(stage, panel, rows);
  copy_stage(out.stored_with_sums, stage, rows, same_row);
  std::memcpy(out.squares, stage.vector, rows * sizeof(float));
  rotate(panel, test.head_panel, test.head_dim, rows,
         [&](uint32_t row) { return &test.tables[row * test.head_dim]; });
  copy_rows(out.rotated, panel, rows);

  load_plain_rows(panel, slot, test.first_row, rows);
  copy_rows(out.plain, panel, rows);
  load_gathered_rows(panel, slot, test.first_row, rows, target);
  copy_rows(out.gathered, panel, rows);
  scale_panel(panel, factors, test.weight.data(), rows);
  copy_rows(out.weighted, panel, rows);
  clear(panel, rows);
  add_tile(panel, slot, test.first_row, rows);
  copy_rows(out.cleared, panel, rows);
  return out;
}

}  // namespace terrazzo::testing
