// The weights of one GPU in the tiles that instructions stream.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "terrazzo/vm/params.hpp"

namespace terrazzo {

/// Output rows of a weight, as a checkpoint has them: [rows, cols] bf16, row-major.
struct SourceMatrix {
  const bf16* data;
  uint64_t rows;
  uint64_t cols;
};

/// Tables that all GPUs share.
struct SharedTables {
  std::vector<bf16> embedding;   // [vocab, hidden panels * 64]
  std::vector<bf16> final_norm;  // [hidden panels * 64]
  std::vector<float> rope;       // [max position, head_dim]
};

class PackedModel {
 public:
  /// All weights start as zeros, so padding needs no care.
  explicit PackedModel(const ModelShape& shape);

  /// Copies row `source_rows[i]` of the source to output row `target_rows[i]` of a matrix of
  /// `layer`, each element times `column_scale[col]` (fp32, rounded once) if that is not empty.
  /// Throws on rows or columns out of range.
  void pack_rows(Matrix which, uint32_t layer, std::span<const int32_t> target_rows,
                 const SourceMatrix& source, std::span<const int32_t> source_rows,
                 std::span<const float> column_scale);

  /// What a launch reads; `tables` must outlive it.
  ModelView view(const SharedTables& tables) const;

 private:
  struct AlignedDelete {
    void operator()(std::byte* pointer) const;
  };

  WeightView views_[kNumMatrices];
  uint32_t layers_[kNumMatrices];
  std::unique_ptr<std::byte[], AlignedDelete> memory_[kNumMatrices];
};

}  // namespace terrazzo
