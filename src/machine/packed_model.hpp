// The weights of one GPU in the tiles that instructions stream.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "machine/pack_chunk.hpp"
#include "terrazzo/vm/params.hpp"

namespace terrazzo {

/// Output rows of a weight, as a checkpoint has them: [rows, cols] bf16, row-major.
struct SourceMatrix {
  const bf16* data;
  uint64_t rows;
  uint64_t cols;
};

/// Rows of values that repeat: (row, col) is pool[(first + row * stride + col) % pool.size()].
struct RepeatedMatrix {
  std::span<const bf16> pool;
  uint64_t first;
  uint64_t stride;
  uint64_t rows;
  uint64_t cols;
};

/// Which rows of a source go where in a matrix of `layer`, and a factor for each column (or none).
struct RowMove {
  Matrix which;
  uint32_t layer;
  std::span<const int32_t> target_rows;  // output rows of the matrix
  std::span<const int32_t> source_rows;  // [as many]
  std::span<const float> column_scale;   // [columns], or empty
};

/// Tables that all GPUs share.
struct SharedTables {
  std::vector<bf16> embedding;   // [vocab, hidden panels * 64]
  std::vector<bf16> final_norm;  // [hidden panels * 64]
  std::vector<float> rope;       // [max position, head_dim]
};

/// Layers of a matrix: the LM head has one.
uint32_t matrix_layers(const ModelShape& shape, Matrix which);

/// The matrix's sizes on one GPU; no data.
WeightView matrix_view(const ModelShape& shape, Matrix which);

/// Bytes of all weights and tables on one GPU.
uint64_t weight_bytes(const ModelShape& shape, uint32_t max_position);

/// Throws `Error` on rows, columns or a layer out of range.
void check_move(const ModelShape& shape, const SourceMatrix& source, const RowMove& move);

/// Throws `Error` unless the tables have the sizes that the model wants.
void check_tables(const ModelShape& shape, uint32_t max_position, const SourceMatrix& embedding,
                  std::span<const bf16> final_norm, std::span<const float> rope);

class PackedModel {
 public:
  /// All weights start as zeros, so padding needs no care.
  explicit PackedModel(const ModelShape& shape);

  /// Copies row `source_rows[i]` of the source to output row `target_rows[i]` of a matrix of
  /// `layer`, each element times `column_scale[col]` (fp32, rounded once) if that is not empty.
  /// Threads may call it at once for different rows. Throws on rows or columns out of range.
  void pack_rows(Matrix which, uint32_t layer, std::span<const int32_t> target_rows,
                 const SourceMatrix& source, std::span<const int32_t> source_rows,
                 std::span<const float> column_scale);

  /// What a launch reads; `tables` must outlive it.
  ModelView view(const SharedTables& tables) const;

 private:
  struct AlignedDelete {
    void operator()(std::byte* pointer) const;
  };

  ModelShape shape_;
  WeightView views_[kNumMatrices];
  std::unique_ptr<std::byte[], AlignedDelete> memory_[kNumMatrices];
};

}  // namespace terrazzo
