#include "machine/cuda/cuda_machine.hpp"

#include <algorithm>
#include <cstring>
#include <sstream>

#include "lower/lower.hpp"
#include "machine/cuda/megakernel.hpp"
#include "terrazzo/core/roles.hpp"

namespace terrazzo::cuda {
namespace {

constexpr uint64_t kTraceHeaderBytes = 16;  // the count, and the events' alignment

/// The shape, if the kernel can run it.
const ModelShape& checked(const ModelShape& shape) {
  constexpr const char* kOp = "cuda machine";
  check(shape.world == 1, kOp, "expected one GPU, got ", shape.world);
  check(shape.group() <= kMaxDecodeHeads, kOp, "expected at most ", kMaxDecodeHeads,
        " query heads a KV head, got ", shape.group(), "; the device 'host' takes more");
  return shape;
}

/// SMs that launches take, of those that the device has.
uint32_t sms_to_use(const CudaOptions& options, uint32_t present) {
  constexpr const char* kOp = "cuda machine";
  check(options.reserve_sms < present, kOp, "expected reserve_sms below the device's ", present,
        " SMs, got ", options.reserve_sms);
  const uint32_t usable = present - options.reserve_sms;
  check(options.num_sms <= usable, kOp, "expected at most ", usable, " SMs, got ", options.num_sms);
  return options.num_sms == 0 ? usable : options.num_sms;
}

/// Bytes of program and tables that most steps stay under: GEMM tiles of 256 columns (and a few
/// more where narrower ones occupy all SMs), an attention unit for each sequence or row block and
/// head. Larger steps make their slots grow.
uint64_t usual_step_bytes(const ModelShape& shape, const StepLimits& limits, uint32_t num_sms) {
  const uint64_t blocks = limits.row_blocks();
  const uint64_t panels = shape.qkv_panels() + 2 * shape.hidden_panels() + shape.gate_up_panels();
  const uint64_t gemms = blocks * ceil_div<uint64_t>(panels, kPanelsPerColTile) + 8 * num_sms;
  const uint64_t heads = std::max<uint64_t>(uint64_t{limits.max_sequences} * shape.local_kv_heads(),
                                            blocks * shape.local_heads());
  const uint64_t epilogue =
      limits.compact_blocks() * (shape.vocab_tiles() + kRowBlock) + blocks + 64;
  return (gemms + heads + epilogue) * sizeof(Instruction) + limits.max_rows * sizeof(RowInfo) +
         limits.max_sequences * sizeof(LogitInfo) + limits.num_pages * sizeof(uint32_t) + 4096;
}

std::string diagnosis(const sm90::WatchdogReport& seen, const CounterMap& counters) {
  std::ostringstream out;
  out << "[watchdog] gpu " << seen.gpu << " sm " << seen.sm << ' ' << kRoleNames[seen.role];
  if (seen.position != ~0u) {
    out << " in " << opcode_name(static_cast<Opcode>(seen.opcode)) << " (layer " << seen.layer
        << ", position " << seen.position << ')';
  }
  out << " waits for " << kWaitNames[seen.wait_kind] << ' ' << seen.index;
  if (seen.wait_kind == static_cast<uint32_t>(WaitKind::kCounter)) {
    const uint32_t counter = seen.index - BankLayout::kBlocks;
    const uint32_t block = counters.size();
    out << " (" << counters.name(counter % block) << " of block " << counter / block << "): seen "
        << seen.seen << ", wanted " << seen.wanted;
  }
  return out.str();
}

}  // namespace

CudaMachine::CudaMachine(const ModelShape& shape, const StepLimits& limits,
                         const CudaOptions& options)
    : shape_(checked(shape)),
      limits_(limits),
      options_(options),
      layout_(heap_layout(shape, limits)),
      weights_(shape, limits.max_position) {
  check_cuda(cudaGetDevice(&device_));
  int sms = 0;
  check_cuda(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device_));
  num_sms_ = sms_to_use(options, static_cast<uint32_t>(sms));
  stream_ = options.stream != nullptr ? options.stream : own_stream_.get();
  // All modules and all memory exist before the first launch.
  prepare_megakernel(shape_);
  heap_ = DeviceMemory(layout_.total_bytes);
  check_cuda(cudaMemset(heap_.data(), 0, layout_.total_bytes));
  abort_flag_ = DeviceMemory(sizeof(uint32_t));
  check_cuda(cudaMemset(abort_flag_.data(), 0, sizeof(uint32_t)));
  zeros_ = PinnedMemory(layout_.size(Buffer::kCounters) / 2);
  std::memset(zeros_.data(), 0, zeros_.bytes());
  if (options.trace_events != 0) {
    trace_ = DeviceMemory(kTraceHeaderBytes + options.trace_events * sizeof(TraceEvent));
  }
  for (auto& slot : slots_) {
    slot = std::make_unique<StepSlot>(usual_step_bytes(shape, limits, num_sms_),
                                      limits.compact_blocks() * kRowBlock);
  }
  check_cuda(cudaDeviceSynchronize());
}

CudaMachine::~CudaMachine() {
  cudaSetDevice(device_);
  cudaStreamSynchronize(copies_.get());
  cudaStreamSynchronize(stream_);
}

void CudaMachine::use_device() const { check_cuda(cudaSetDevice(device_)); }

void CudaMachine::set_model(const PackedModel& model, const SharedTables& tables) {
  use_device();
  weights_.load_packed(model, tables);
}

StepParams CudaMachine::params_of(const UploadedStep& step) const {
  return {
      .shape = shape_,
      .limits = limits_,
      .layout = layout_,
      .model = weights_.view(),
      .tables = step.tables,
      .program = step.program,
      .heaps = {heap_.data()},
      .gpu = 0,
      .bank = bank_,
      .bank_counters = layout_.size(Buffer::kCounters) / (2 * sizeof(uint32_t)),
      .watchdog_ns = options_.watchdog_ns,
      .trace = options_.trace_events != 0 ? 1u : 0u,
  };
}

uint32_t CudaMachine::upload(const LoweredStep& step) {
  use_device();
  const uint32_t next = (slot_ + 1) % kNumSlots;
  slots_[next]->ended.wait();
  slots_[next]->upload(step, copies_.get());
  slot_ = next;
  return next;
}

void CudaMachine::launch(bool fetch, Event* begin) {
  use_device();
  StepSlot& slot = *slots_[slot_];
  if (fetch) {
    slot.reserve_logits(logits_cols());
  }
  bank_ ^= 1u;
  sm90::TraceBuffer trace{};
  if (options_.trace_events != 0) {
    check_cuda(cudaMemsetAsync(trace_.data(), 0, kTraceHeaderBytes, stream_));
    trace = {.events = reinterpret_cast<TraceEvent*>(trace_.data() + kTraceHeaderBytes),
             .count = reinterpret_cast<uint32_t*>(trace_.data()),
             .capacity = options_.trace_events};
  }
  slot.uploaded.hold(stream_);
  cleared_.hold(stream_);
  slot.begun.record(stream_);
  if (begin != nullptr) {
    begin->record(stream_);
  }
  launch_megakernel(params_of(slot.step()),
                    {.abort_flag = reinterpret_cast<uint32_t*>(abort_flag_.data()),
                     .report = &slot.report(),
                     .watchdog_ns = options_.watchdog_ns,
                     .gpu = 0,
                     .world = 1,
                     .trace = trace},
                    num_sms_, stream_);
  if (fetch) {
    slot.fetch(heap_.data(), layout_, logits_cols(), stream_);
  }
  // The other bank's step has ended when this one starts: it is cleared meanwhile.
  if (used_bytes_[bank_ ^ 1u] != 0) {
    slot.begun.hold(copies_.get());
    check_cuda(cudaMemcpyAsync(
        heap_.data() + layout_.at(Buffer::kCounters) + (bank_ ^ 1u) * zeros_.bytes(), zeros_.data(),
        used_bytes_[bank_ ^ 1u], cudaMemcpyHostToDevice, copies_.get()));
    used_bytes_[bank_ ^ 1u] = 0;
    cleared_.record(copies_.get());
  }
  used_bytes_[bank_] =
      BankLayout::size(slot.step().counters.size(), shape_.num_layers) * sizeof(uint32_t);
  slot.ended.record(stream_);
}

void CudaMachine::wait_until_ended(uint32_t slot) const {
  use_device();
  slots_[slot]->ended.wait();
}

void CudaMachine::check_ended(uint32_t slot) {
  use_device();
  const sm90::WatchdogReport seen = slots_[slot]->report();
  if (seen.raised != 0) {
    recover();
    throw WatchdogError(diagnosis(seen, slots_[slot]->step().counters));
  }
}

void CudaMachine::recover() {
  check_cuda(cudaStreamSynchronize(stream_));
  check_cuda(cudaStreamSynchronize(copies_.get()));
  for (const auto& slot : slots_) {
    std::memset(&slot->report(), 0, sizeof(sm90::WatchdogReport));
  }
  check_cuda(cudaMemset(abort_flag_.data(), 0, sizeof(uint32_t)));
  check_cuda(
      cudaMemset(heap_.data() + layout_.at(Buffer::kCounters), 0, layout_.size(Buffer::kCounters)));
  check_cuda(cudaDeviceSynchronize());
  used_bytes_[0] = used_bytes_[1] = 0;
}

void CudaMachine::run(const LoweredStep& step) {
  upload(step);
  launch();
  wait();
}

float CudaMachine::elapsed_ms(uint32_t slot) const {
  use_device();
  float ms = 0;
  check_cuda(cudaEventElapsedTime(&ms, slots_[slot]->begun.get(), slots_[slot]->ended.get()));
  return ms;
}

std::vector<TraceEvent> CudaMachine::events() {
  use_device();
  check_cuda(cudaStreamSynchronize(stream_));
  uint32_t count = 0;
  if (options_.trace_events != 0) {
    check_cuda(cudaMemcpy(&count, trace_.data(), sizeof(count), cudaMemcpyDeviceToHost));
  }
  std::vector<TraceEvent> events(std::min(count, options_.trace_events));
  if (!events.empty()) {
    check_cuda(cudaMemcpy(events.data(), trace_.data() + kTraceHeaderBytes,
                          events.size() * sizeof(TraceEvent), cudaMemcpyDeviceToHost));
  }
  return events;
}

void CudaMachine::read(Buffer buffer, uint64_t offset, void* target, uint64_t bytes) {
  use_device();
  check_cuda(cudaStreamSynchronize(stream_));
  check_cuda(cudaMemcpy(target, heap_.data() + layout_.at(buffer) + offset, bytes,
                        cudaMemcpyDeviceToHost));
}

void CudaMachine::write(Buffer buffer, uint64_t offset, const void* source, uint64_t bytes) {
  use_device();
  check_cuda(cudaStreamSynchronize(stream_));
  check_cuda(
      cudaMemcpy(heap_.data() + layout_.at(buffer) + offset, source, bytes, cudaMemcpyDefault));
}

}  // namespace terrazzo::cuda
