// The weights on one device, and the way they get there: bytes through a few pinned buffers, tiles
// made by a kernel.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <vector>

#include "machine/cuda/device_memory.hpp"
#include "machine/cuda/handles.hpp"
#include "machine/packed_model.hpp"

namespace terrazzo::cuda {

class WeightStore {
 public:
  /// All weights start as zeros, so padding needs no care.
  WeightStore(const ModelShape& shape, uint32_t max_position);
  ~WeightStore();

  /// As PackedModel::pack_rows, with the same bits. Returns when the source may go away; threads
  /// may call it at once for different rows.
  void load_rows(const RowMove& move, const SourceMatrix& source);

  /// The same of a source that repeats: its values travel once, the rows are made on the device.
  void load_repeated(const RowMove& move, const RepeatedMatrix& source);

  /// embedding: [vocab, hidden]; final_norm: [hidden]; rope: [max_position, head_dim].
  void load_tables(const SourceMatrix& embedding, std::span<const bf16> final_norm,
                   std::span<const float> rope);

  /// The same with an embedding that repeats.
  void load_tables(const RepeatedMatrix& embedding, std::span<const bf16> final_norm,
                   std::span<const float> rope);

  /// A model that was packed on the host.
  void load_packed(const PackedModel& model, const SharedTables& tables);

  /// Copies of the blocks over everything: `weights` over the matrices, `values` over the tables.
  /// What they say means nothing, padding included; for measurements.
  void fill(const DeviceMemory& weights, const DeviceMemory& values);

  /// Waits until everything has landed and gives the buffers back.
  void finish();

  /// What a launch reads.
  ModelView view() const;

 private:
  /// A pinned buffer, its twin on the device, and the stream that carries one to the other.
  struct Carrier {
    Carrier();
    PinnedMemory host;
    DeviceMemory device;
    Stream stream;
    Event landed;
  };
  using CarrierPtr = std::unique_ptr<Carrier>;

  /// A carrier whose last load has landed, until it goes out of scope; waits if all are out.
  class Loan {
   public:
    explicit Loan(WeightStore& store);
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    ~Loan();
    Carrier* operator->() const { return carrier_.get(); }

   private:
    WeightStore& store_;
    CarrierPtr carrier_;
  };

  void load_small_tables(std::span<const bf16> final_norm, std::span<const float> rope);

  /// Copies rows of `bytes` through carriers to rows of `target_bytes` on the device.
  void load_plain(std::byte* target, const void* source, uint64_t rows, uint64_t bytes,
                  uint64_t target_bytes);

  ModelShape shape_;
  uint32_t max_position_;
  int device_ = 0;
  WeightView views_[kNumMatrices];
  DeviceMemory matrices_[kNumMatrices];
  DeviceMemory embedding_, final_norm_, rope_;

  std::mutex mutex_;
  std::condition_variable returned_;
  std::deque<CarrierPtr> idle_;  // the one that has waited longest comes first
  uint32_t num_carriers_ = 0;
};

}  // namespace terrazzo::cuda
