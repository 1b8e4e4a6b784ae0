#include "machine/cuda/weight_store.hpp"

#include <algorithm>
#include <cstring>

#include "machine/cuda/pack_kernel.hpp"
#include "machine/cuda/random_fill.hpp"
#include "machine/row_blocks.hpp"

namespace terrazzo::cuda {
namespace {

// Loading takes at most this much host memory, whatever the model's size: while one buffer fills,
// others are on the bus.
constexpr uint32_t kMostCarriers = 12;
constexpr uint64_t kCarrierBytes = 8 << 20;

DeviceMemory zeros(uint64_t bytes) {
  DeviceMemory memory(bytes);
  check_cuda(cudaMemset(memory.data(), 0, bytes));
  return memory;
}

}  // namespace

WeightStore::Carrier::Carrier() : host(kCarrierBytes), device(kCarrierBytes) {}

WeightStore::WeightStore(const ModelShape& shape, uint32_t max_position)
    : shape_(shape), max_position_(max_position) {
  check_cuda(cudaGetDevice(&device_));
  for (uint32_t i = 0; i < kNumMatrices; ++i) {
    const auto which = static_cast<Matrix>(i);
    views_[i] = matrix_view(shape, which);
    matrices_[i] = zeros(views_[i].layer_stride_bytes * matrix_layers(shape, which));
    views_[i].data = matrices_[i].data();
  }
  const uint64_t row_bytes = uint64_t{shape.hidden_panels()} * kRowBytes;
  embedding_ = zeros(shape.vocab * row_bytes);
  final_norm_ = zeros(row_bytes);
  rope_ = zeros(uint64_t{max_position} * shape.head_dim * sizeof(float));
  check_cuda(cudaDeviceSynchronize());  // carriers' streams do not wait for the clearing
}

WeightStore::~WeightStore() {
  for (const CarrierPtr& carrier : idle_) {
    cudaStreamSynchronize(carrier->stream.get());
  }
}

WeightStore::Loan::Loan(WeightStore& store) : store_(store) {
  {
    std::unique_lock lock(store.mutex_);
    if (store.idle_.empty() && store.num_carriers_ < kMostCarriers) {
      // Made under the lock: page-locking memory takes a lock of the driver anyway.
      carrier_ = std::make_unique<Carrier>();
      ++store.num_carriers_;
      return;
    }
    store.returned_.wait(lock, [&] { return !store.idle_.empty(); });
    carrier_ = std::move(store.idle_.front());
    store.idle_.pop_front();
  }
  cudaEventSynchronize(carrier_->landed.get());  // an error comes back at the next call
}

WeightStore::Loan::~Loan() {
  cudaEventRecord(carrier_->landed.get(), carrier_->stream.get());
  {
    const std::lock_guard lock(store_.mutex_);
    store_.idle_.push_back(std::move(carrier_));
  }
  store_.returned_.notify_one();
}

void WeightStore::load_rows(const RowMove& move, const SourceMatrix& source) {
  check_move(shape_, source, move);
  check_cuda(cudaSetDevice(device_));
  const WeightView& matrix = views_[static_cast<uint32_t>(move.which)];
  for (const MoveBlock& block : cut_into_blocks(move, source, kCarrierBytes)) {
    const Loan carrier(*this);
    const uint64_t bytes = fill_block(carrier->host.data(), block, move, source);
    check_cuda(cudaMemcpyAsync(carrier->device.data(), carrier->host.data(), bytes,
                               cudaMemcpyHostToDevice, carrier->stream.get()));
    launch_pack(block_at(carrier->device.data(), block, move, source, matrix),
                carrier->stream.get());
  }
}

void WeightStore::load_repeated(const RowMove& move, const RepeatedMatrix& source) {
  check_move(shape_, {nullptr, source.rows, source.cols}, move);
  if (move.source_rows.empty()) {
    return;
  }
  check_cuda(cudaSetDevice(device_));
  const Loan carrier(*this);
  const uint64_t bytes = fill_repeated(carrier->host.data(), kCarrierBytes, move, source);
  check_cuda(cudaMemcpyAsync(carrier->device.data(), carrier->host.data(), bytes,
                             cudaMemcpyHostToDevice, carrier->stream.get()));
  launch_pack(
      repeated_at(carrier->device.data(), move, source, views_[static_cast<uint32_t>(move.which)]),
      carrier->stream.get());
}

void WeightStore::load_plain(std::byte* target, const void* source, uint64_t rows, uint64_t bytes,
                             uint64_t target_bytes) {
  const uint64_t rows_each = kCarrierBytes / bytes;
  check(rows_each > 0, "set_tables", "rows of ", bytes, " bytes are too long");
  for (uint64_t row = 0; row < rows; row += rows_each) {
    const uint64_t count = std::min(rows_each, rows - row);
    const Loan carrier(*this);
    std::memcpy(carrier->host.data(), static_cast<const std::byte*>(source) + row * bytes,
                count * bytes);
    check_cuda(cudaMemcpy2DAsync(target + row * target_bytes, target_bytes, carrier->host.data(),
                                 bytes, bytes, count, cudaMemcpyHostToDevice,
                                 carrier->stream.get()));
  }
}

void WeightStore::load_tables(const SourceMatrix& embedding, std::span<const bf16> final_norm,
                              std::span<const float> rope) {
  check_tables(shape_, max_position_, embedding, final_norm, rope);
  check_cuda(cudaSetDevice(device_));
  load_plain(embedding_.data(), embedding.data, shape_.vocab, shape_.hidden * sizeof(bf16),
             uint64_t{shape_.hidden_panels()} * kRowBytes);
  load_small_tables(final_norm, rope);
}

void WeightStore::load_tables(const RepeatedMatrix& embedding, std::span<const bf16> final_norm,
                              std::span<const float> rope) {
  check_tables(shape_, max_position_, {nullptr, embedding.rows, embedding.cols}, final_norm, rope);
  check_cuda(cudaSetDevice(device_));
  {
    const Loan carrier(*this);
    const uint64_t bytes = fill_repeated(carrier->host.data(), kCarrierBytes, {}, embedding);
    check_cuda(cudaMemcpyAsync(carrier->device.data(), carrier->host.data(), bytes,
                               cudaMemcpyHostToDevice, carrier->stream.get()));
    TableRows table{reinterpret_cast<bf16*>(embedding_.data()),
                    repeated_at(carrier->device.data(), {}, embedding, {})};
    table.source.rows = shape_.vocab;
    launch_lay(table, carrier->stream.get());
  }
  load_small_tables(final_norm, rope);
}

void WeightStore::load_small_tables(std::span<const bf16> final_norm, std::span<const float> rope) {
  load_plain(final_norm_.data(), final_norm.data(), 1, shape_.hidden * sizeof(bf16),
             uint64_t{shape_.hidden_panels()} * kRowBytes);
  const uint64_t position_bytes = shape_.head_dim * sizeof(float);
  load_plain(rope_.data(), rope.data(), max_position_, position_bytes, position_bytes);
}

void WeightStore::load_packed(const PackedModel& model, const SharedTables& tables) {
  const ModelView host = model.view(tables);
  const auto copy = [](const DeviceMemory& target, const void* source, uint64_t bytes) {
    check(bytes <= target.bytes(), "set_model", "expected at most ", target.bytes(), " bytes, got ",
          bytes);
    check_cuda(cudaMemcpy(target.data(), source, bytes, cudaMemcpyHostToDevice));
  };
  for (uint32_t i = 0; i < kNumMatrices; ++i) {
    copy(matrices_[i], host.matrices[i].data, matrices_[i].bytes());
  }
  copy(embedding_, tables.embedding.data(), tables.embedding.size() * sizeof(bf16));
  copy(final_norm_, tables.final_norm.data(), tables.final_norm.size() * sizeof(bf16));
  copy(rope_, tables.rope.data(), tables.rope.size() * sizeof(float));
}

void WeightStore::fill(const DeviceMemory& weights, const DeviceMemory& values) {
  check_cuda(cudaSetDevice(device_));
  for (const DeviceMemory& matrix : matrices_) {
    copy_over(matrix.data(), matrix.bytes(), weights);
  }
  for (const DeviceMemory* table : {&embedding_, &final_norm_, &rope_}) {
    copy_over(table->data(), table->bytes(), values);
  }
}

void WeightStore::finish() {
  const std::lock_guard lock(mutex_);
  for (const CarrierPtr& carrier : idle_) {
    check_cuda(cudaStreamSynchronize(carrier->stream.get()));
  }
  num_carriers_ -= static_cast<uint32_t>(idle_.size());
  idle_.clear();
}

ModelView WeightStore::view() const {
  ModelView view{};
  std::copy_n(views_, kNumMatrices, view.matrices);
  view.embedding = reinterpret_cast<const bf16*>(embedding_.data());
  view.final_norm = reinterpret_cast<const bf16*>(final_norm_.data());
  view.rope = reinterpret_cast<const float*>(rope_.data());
  return view;
}

}  // namespace terrazzo::cuda
