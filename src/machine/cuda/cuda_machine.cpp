#include "machine/cuda/cuda_machine.hpp"

#include <cstring>

#include "lower/lower.hpp"
#include "machine/cuda/megakernel.hpp"
#include "terrazzo/core/roles.hpp"

namespace terrazzo::cuda {
namespace {

/// Places of a step's parts in one device allocation, 256-byte aligned.
class Arena {
 public:
  template <class T>
  uint64_t place(const std::vector<T>& values) {
    const uint64_t offset = bytes_;
    parts_.push_back({values.data(), offset, values.size() * sizeof(T)});
    bytes_ += round_up<uint64_t>(values.size() * sizeof(T), 256);
    return offset;
  }
  uint64_t bytes() const { return bytes_; }

  void copy_to(std::byte* target) const {
    for (const Part& part : parts_) {
      if (part.bytes != 0) {
        std::memcpy(target + part.offset, part.data, part.bytes);
      }
    }
  }

 private:
  struct Part {
    const void* data;
    uint64_t offset;
    uint64_t bytes;
  };
  std::vector<Part> parts_;
  uint64_t bytes_ = 0;
};

}  // namespace

CudaMachine::CudaMachine(const ModelShape& shape, const StepLimits& limits,
                         const CudaOptions& options)
    : shape_(shape),
      limits_(limits),
      options_(options),
      layout_(heap_layout(shape, limits)),
      report_(sizeof(sm90::WatchdogReport)) {
  check(shape.world == 1, "cuda machine", "expected one GPU, got ", shape.world);
  check(shape.group() <= kMaxDecodeHeads, "cuda machine", "expected at most ", kMaxDecodeHeads,
        " query heads a KV head, got ", shape.group());
  int device = 0;
  check_cuda(cudaGetDevice(&device));
  int sms = 0;
  check_cuda(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
  num_sms_ = options.num_sms == 0 ? static_cast<uint32_t>(sms) : options.num_sms;
  check(num_sms_ <= static_cast<uint32_t>(sms), "cuda machine", "expected at most ", sms,
        " SMs, got ", num_sms_);
  check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
  prepare_megakernel(shape_);
  heap_ = DeviceMemory(layout_.total_bytes);
  check_cuda(cudaMemset(heap_.data(), 0, layout_.total_bytes));
  abort_flag_ = DeviceMemory(sizeof(uint32_t));
  check_cuda(cudaMemset(abort_flag_.data(), 0, sizeof(uint32_t)));
  std::memset(report_.data(), 0, sizeof(sm90::WatchdogReport));
}

CudaMachine::~CudaMachine() {
  cudaStreamSynchronize(stream_);
  cudaStreamDestroy(stream_);
}

DeviceMemory CudaMachine::upload_bytes(const void* source, size_t bytes) {
  DeviceMemory memory(bytes);
  check_cuda(cudaMemcpy(memory.data(), source, bytes, cudaMemcpyHostToDevice));
  return memory;
}

void CudaMachine::set_model(const PackedModel& model, const SharedTables& tables) {
  const ModelView host = model.view(tables);
  model_ = host;
  for (uint32_t i = 0; i < kNumMatrices; ++i) {
    const WeightView& view = host.matrices[i];
    const uint32_t layers = i == static_cast<uint32_t>(Matrix::kLmHead) ? 1 : shape_.num_layers;
    weights_[i] = upload_bytes(view.data, view.layer_stride_bytes * layers);
    model_.matrices[i].data = weights_[i].data();
  }
  embedding_ = upload_bytes(tables.embedding.data(), tables.embedding.size() * sizeof(bf16));
  final_norm_ = upload_bytes(tables.final_norm.data(), tables.final_norm.size() * sizeof(bf16));
  rope_ = upload_bytes(tables.rope.data(), tables.rope.size() * sizeof(float));
  model_.embedding = reinterpret_cast<const bf16*>(embedding_.data());
  model_.final_norm = reinterpret_cast<const bf16*>(final_norm_.data());
  model_.rope = reinterpret_cast<const float*>(rope_.data());
}

void CudaMachine::upload(const LoweredStep& step) {
  Arena arena;
  const ProgramView program = step.view(0);
  const uint64_t prologue = arena.place(step.gpus[0].segment(Segment::kPrologue));
  const uint64_t body = arena.place(step.gpus[0].segment(Segment::kBody));
  const uint64_t epilogue = arena.place(step.gpus[0].segment(Segment::kEpilogue));
  const uint64_t rows = arena.place(step.rows);
  const uint64_t logit_rows = arena.place(step.logit_rows);
  const uint64_t pages = arena.place(step.page_ids);
  std::vector<std::byte> bytes(arena.bytes());
  arena.copy_to(bytes.data());
  if (program_.bytes() < bytes.size()) {
    program_ = DeviceMemory(bytes.size() * 2);
  }
  check_cuda(cudaMemcpyAsync(program_.data(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice,
                             stream_));
  check_cuda(cudaStreamSynchronize(stream_));  // `bytes` is pageable and goes away
  std::byte* const base = program_.data();
  params_ = {
      .shape = shape_,
      .limits = limits_,
      .layout = layout_,
      .model = model_,
      .tables = {reinterpret_cast<const RowInfo*>(base + rows),
                 reinterpret_cast<const LogitInfo*>(base + logit_rows),
                 reinterpret_cast<const uint32_t*>(base + pages),
                 static_cast<uint32_t>(step.rows.size()),
                 static_cast<uint32_t>(step.logit_rows.size())},
      .program = program,
      .heaps = {heap_.data()},
      .gpu = 0,
      .bank = bank_,
      .bank_counters = layout_.size(Buffer::kCounters) / (2 * sizeof(uint32_t)),
      .watchdog_ns = options_.watchdog_ns,
      .trace = 0,
  };
  params_.program.prologue = reinterpret_cast<const Instruction*>(base + prologue);
  params_.program.body = reinterpret_cast<const Instruction*>(base + body);
  params_.program.epilogue = reinterpret_cast<const Instruction*>(base + epilogue);
  step_ = &step;
}

void CudaMachine::launch() {
  bank_ ^= 1u;
  params_.bank = bank_;
  check_cuda(
      cudaMemsetAsync(params_.counters(0), 0, params_.bank_counters * sizeof(uint32_t), stream_));
  const sm90::LaunchView view{
      .abort_flag = reinterpret_cast<uint32_t*>(abort_flag_.data()),
      .report = static_cast<sm90::WatchdogReport*>(report_.data()),
      .watchdog_ns = options_.watchdog_ns,
      .gpu = 0,
      .world = 1,
      .trace = {},
  };
  launch_megakernel(params_, view, num_sms_, stream_);
}

void CudaMachine::wait() {
  check_cuda(cudaStreamSynchronize(stream_));
  auto* const report = static_cast<sm90::WatchdogReport*>(report_.data());
  if (report->raised == 0) {
    return;
  }
  const sm90::WatchdogReport seen = *report;
  std::memset(report, 0, sizeof(*report));
  check_cuda(cudaMemset(abort_flag_.data(), 0, sizeof(uint32_t)));
  check_cuda(
      cudaMemset(heap_.data() + layout_.at(Buffer::kCounters), 0, layout_.size(Buffer::kCounters)));
  std::ostringstream out;
  out << "[watchdog] gpu " << seen.gpu << " sm " << seen.sm << ' ' << kRoleNames[seen.role];
  if (seen.position != ~0u) {
    out << " in " << opcode_name(static_cast<Opcode>(seen.opcode)) << " (layer " << seen.layer
        << ", position " << seen.position << ')';
  }
  out << " waits for " << kWaitNames[seen.wait_kind] << ' ' << seen.index;
  if (seen.wait_kind == static_cast<uint32_t>(WaitKind::kCounter)) {
    const uint32_t counter = seen.index - BankLayout::kBlocks;
    const uint32_t block = step_->counters_per_block();
    out << " (" << step_->counters.name(counter % block) << " of block " << counter / block
        << "): seen " << seen.seen << ", wanted " << seen.wanted;
  }
  throw WatchdogError(out.str());
}

void CudaMachine::run(const LoweredStep& step) {
  upload(step);
  launch();
  wait();
}

void CudaMachine::read(Buffer buffer, uint64_t offset, void* target, uint64_t bytes) {
  check_cuda(cudaStreamSynchronize(stream_));
  check_cuda(cudaMemcpy(target, heap_.data() + layout_.at(buffer) + offset, bytes,
                        cudaMemcpyDeviceToHost));
}

void CudaMachine::write(Buffer buffer, uint64_t offset, const void* source, uint64_t bytes) {
  check_cuda(cudaStreamSynchronize(stream_));
  check_cuda(cudaMemcpy(heap_.data() + layout_.at(buffer) + offset, source, bytes,
                        cudaMemcpyHostToDevice));
}

}  // namespace terrazzo::cuda
