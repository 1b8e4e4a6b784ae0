#include "machine/packed_model.hpp"

#include <cstring>
#include <new>

#include "terrazzo/core/check.hpp"

namespace terrazzo {

void PackedModel::AlignedDelete::operator()(std::byte* pointer) const {
  ::operator delete[](pointer, std::align_val_t{kHeapAlignment});
}

PackedModel::PackedModel(const ModelShape& shape) {
  struct Size {
    uint32_t panels;
    uint32_t k_panels;
    uint32_t layers;
  };
  const Size sizes[kNumMatrices] = {
      {shape.qkv_panels(), shape.hidden_panels(), shape.num_layers},
      {shape.hidden_panels(), shape.attention_panels(), shape.num_layers},
      {shape.gate_up_panels(), shape.hidden_panels(), shape.num_layers},
      {shape.hidden_panels(), shape.act_panels(), shape.num_layers},
      {shape.vocab_panels(), shape.hidden_panels(), 1},
  };
  for (uint32_t i = 0; i < kNumMatrices; ++i) {
    const Size& size = sizes[i];
    const uint64_t layer_bytes = uint64_t{size.panels} * size.k_panels * kHalfPanelBytes;
    memory_[i].reset(static_cast<std::byte*>(
        ::operator new[](layer_bytes * size.layers, std::align_val_t{kHeapAlignment})));
    std::memset(memory_[i].get(), 0, layer_bytes * size.layers);
    views_[i] = {memory_[i].get(), layer_bytes, size.panels, size.k_panels};
    layers_[i] = size.layers;
  }
}

void PackedModel::pack_rows(Matrix which, uint32_t layer, std::span<const int32_t> target_rows,
                            const SourceMatrix& source, std::span<const int32_t> source_rows,
                            std::span<const float> column_scale) {
  const auto index = static_cast<uint32_t>(which);
  const WeightView& view = views_[index];
  constexpr const char* kOp = "pack_rows";
  check(layer < layers_[index], kOp, "layer ", layer, " of ", layers_[index]);
  check(target_rows.size() == source_rows.size(), kOp, target_rows.size(), " target rows, ",
        source_rows.size(), " source rows");
  check(source.cols <= uint64_t{view.k_panels} * kPanelCols, kOp, "expected at most ",
        view.k_panels * kPanelCols, " columns, got ", source.cols);
  check(column_scale.empty() || column_scale.size() == source.cols, kOp, "expected ", source.cols,
        " column factors, got ", column_scale.size());
  for (size_t i = 0; i < target_rows.size(); ++i) {
    const int64_t target = target_rows[i];
    const int64_t from = source_rows[i];
    check(target >= 0 && target < int64_t{view.panels} * kPanelCols, kOp, "target row ", target,
          " of ", view.panels * kPanelCols);
    check(from >= 0 && from < static_cast<int64_t>(source.rows), kOp, "source row ", from, " of ",
          source.rows);
    const auto panel = static_cast<uint32_t>(target / kPanelCols);
    const auto row = static_cast<uint32_t>(target % kPanelCols);
    const bf16* const values = source.data + static_cast<uint64_t>(from) * source.cols;
    for (uint64_t k = 0; k * kPanelCols < source.cols; ++k) {
      auto* const tile = const_cast<std::byte*>(view.at(layer, panel, static_cast<uint32_t>(k)));
      const uint64_t end = std::min<uint64_t>(kPanelCols, source.cols - k * kPanelCols);
      bf16 line[kPanelCols] = {};
      for (uint64_t col = 0; col < end; ++col) {
        const bf16 value = values[k * kPanelCols + col];
        line[col] = column_scale.empty()
                        ? value
                        : to_bf16(to_float(value) * column_scale[k * kPanelCols + col]);
      }
      for (uint32_t chunk = 0; chunk < kRowBytes / kChunkBytes; ++chunk) {
        std::memcpy(tile + chunk_offset(row, chunk), line + chunk * kChunkElems, kChunkBytes);
      }
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
