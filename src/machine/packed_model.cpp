#include "machine/packed_model.hpp"

#include <cstring>
#include <new>

#include "terrazzo/core/check.hpp"

namespace terrazzo {

uint32_t matrix_layers(const ModelShape& shape, Matrix which) {
  return which == Matrix::kLmHead ? 1 : shape.num_layers;
}

WeightView matrix_view(const ModelShape& shape, Matrix which) {
  struct Size {
    uint32_t panels;
    uint32_t k_panels;
  };
  const Size sizes[kNumMatrices] = {
      {shape.qkv_panels(), shape.hidden_panels()},
      {shape.hidden_panels(), shape.attention_panels()},
      {shape.gate_up_panels(), shape.hidden_panels()},
      {shape.hidden_panels(), shape.act_panels()},
      {shape.vocab_panels(), shape.hidden_panels()},
  };
  const Size& size = sizes[static_cast<uint32_t>(which)];
  return {nullptr, uint64_t{size.panels} * size.k_panels * kHalfPanelBytes, size.panels,
          size.k_panels};
}

uint64_t weight_bytes(const ModelShape& shape, uint32_t max_position) {
  uint64_t bytes = 0;
  for (uint32_t i = 0; i < kNumMatrices; ++i) {
    const auto which = static_cast<Matrix>(i);
    bytes += matrix_view(shape, which).layer_stride_bytes * matrix_layers(shape, which);
  }
  const uint64_t cols = uint64_t{shape.hidden_panels()} * kPanelCols;
  return bytes + (uint64_t{shape.vocab} + 1) * cols * sizeof(bf16) +
         uint64_t{max_position} * shape.head_dim * sizeof(float);
}

void check_move(const ModelShape& shape, const SourceMatrix& source, const RowMove& move) {
  constexpr const char* kOp = "pack_rows";
  const WeightView view = matrix_view(shape, move.which);
  const uint32_t layers = matrix_layers(shape, move.which);
  check(move.layer < layers, kOp, "layer ", move.layer, " of ", layers);
  check(move.target_rows.size() == move.source_rows.size(), kOp, move.target_rows.size(),
        " target rows, ", move.source_rows.size(), " source rows");
  check(source.cols <= uint64_t{view.k_panels} * kPanelCols, kOp, "expected at most ",
        view.k_panels * kPanelCols, " columns, got ", source.cols);
  check(move.column_scale.empty() || move.column_scale.size() == source.cols, kOp, "expected ",
        source.cols, " column factors, got ", move.column_scale.size());
  for (size_t i = 0; i < move.target_rows.size(); ++i) {
    const int64_t target = move.target_rows[i];
    const int64_t from = move.source_rows[i];
    check(target >= 0 && target < int64_t{view.panels} * kPanelCols, kOp, "target row ", target,
          " of ", view.panels * kPanelCols);
    check(from >= 0 && from < static_cast<int64_t>(source.rows), kOp, "source row ", from, " of ",
          source.rows);
  }
}

void check_tables(const ModelShape& shape, uint32_t max_position, const SourceMatrix& embedding,
                  std::span<const bf16> final_norm, std::span<const float> rope) {
  constexpr const char* kOp = "set_tables";
  check(embedding.rows == shape.vocab && embedding.cols == shape.hidden, kOp,
        "expected an embedding of [", shape.vocab, ", ", shape.hidden, "], got [", embedding.rows,
        ", ", embedding.cols, "]");
  check(final_norm.size() == shape.hidden, kOp, "expected a final norm of [", shape.hidden,
        "], got [", final_norm.size(), "]");
  const uint64_t rope_size = uint64_t{max_position} * shape.head_dim;
  check(rope.size() == rope_size, kOp, "expected ", rope_size, " rotary values, got ", rope.size());
}

void PackedModel::AlignedDelete::operator()(std::byte* pointer) const {
  ::operator delete[](pointer, std::align_val_t{kHeapAlignment});
}

PackedModel::PackedModel(const ModelShape& shape) : shape_(shape) {
  for (uint32_t i = 0; i < kNumMatrices; ++i) {
    const auto which = static_cast<Matrix>(i);
    views_[i] = matrix_view(shape, which);
    const uint64_t bytes = views_[i].layer_stride_bytes * matrix_layers(shape, which);
    memory_[i].reset(
        static_cast<std::byte*>(::operator new[](bytes, std::align_val_t{kHeapAlignment})));
    std::memset(memory_[i].get(), 0, bytes);
    views_[i].data = memory_[i].get();
  }
}

void PackedModel::pack_rows(Matrix which, uint32_t layer, std::span<const int32_t> target_rows,
                            const SourceMatrix& source, std::span<const int32_t> source_rows,
                            std::span<const float> column_scale) {
  check_move(shape_, source, {which, layer, target_rows, source_rows, column_scale});
  const RowBlock block{.matrix = views_[static_cast<uint32_t>(which)],
                       .layer = layer,
                       .rows = static_cast<uint32_t>(target_rows.size()),
                       .cols = static_cast<uint32_t>(source.cols),
                       .values = source.data,
                       .source_rows = source_rows.data(),
                       .target_rows = target_rows.data(),
                       .scale = column_scale.empty() ? nullptr : column_scale.data()};
  const uint32_t chunks = block.chunks_per_row();
  for (uint32_t row = 0; row < block.rows; ++row) {
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      pack_chunk(block, row, chunk);
    }
  }
}

ModelView PackedModel::view(const SharedTables& tables) const {
  ModelView out{};
  for (uint32_t i = 0; i < kNumMatrices; ++i) {
    out.matrices[i] = views_[i];
  }
  out.embedding = tables.embedding.data();
  out.final_norm = tables.final_norm.data();
  out.rope = tables.rope.data();
  return out;
}

}  // namespace terrazzo
