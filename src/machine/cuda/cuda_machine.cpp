#include "machine/cuda/cuda_machine.hpp"

#include <algorithm>
#include <climits>
#include <cstring>
#include <exception>
#include <sstream>

#include "lower/lower.hpp"
#include "machine/cuda/devices.hpp"
#include "machine/cuda/megakernel.hpp"
#include "terrazzo/core/roles.hpp"

namespace terrazzo::cuda {
namespace {

/// The shape, if the kernel can run it.
const ModelShape& checked(const ModelShape& shape) {
  constexpr const char* kOp = "cuda machine";
  check(shape.group() <= kMaxDecodeHeads, kOp, "expected at most ", kMaxDecodeHeads,
        " query heads a KV head, got ", shape.group(), "; the device 'host' takes more");
  return shape;
}

/// The options, if they suit the number of ranks.
const CudaOptions& checked(const CudaOptions& options, uint32_t world) {
  constexpr const char* kOp = "cuda machine";
  check(options.ranks_per_gpu > 0 && world % options.ranks_per_gpu == 0, kOp,
        "expected ranks_per_gpu to divide the ", world, " ranks, got ", options.ranks_per_gpu);
  check(options.stream == nullptr || options.ranks_per_gpu == world, kOp,
        "a stream belongs to one GPU; with several, steps run on streams of the machine's own");
  return options;
}

/// SMs that a rank takes, of those that each device has.
uint32_t sms_to_use(const CudaOptions& options, uint32_t present) {
  constexpr const char* kOp = "cuda machine";
  check(options.reserve_sms < present, kOp, "expected reserve_sms below the device's ", present,
        " SMs, got ", options.reserve_sms);
  const uint32_t usable = (present - options.reserve_sms) / options.ranks_per_gpu;
  check(usable > 0, kOp, "expected an SM for each of the ", options.ranks_per_gpu,
        " ranks of a GPU, it has ", present);
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

/// Least of the devices: ranks are alike.
uint32_t fewest_sms(const std::vector<int>& devices) {
  int fewest = INT_MAX;
  for (const int device : devices) {
    int sms = 0;
    check_cuda(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device));
    fewest = std::min(fewest, sms);
  }
  return static_cast<uint32_t>(fewest);
}

PinnedMemory pinned_bytes(uint64_t bytes, int value) {
  PinnedMemory memory(bytes);
  std::memset(memory.data(), value, bytes);
  return memory;
}

/// What went wrong with one of several GPUs.
MachineError of_gpu(uint32_t gpu, const std::exception& error) {
  return MachineError("gpu " + std::to_string(gpu) + ": " + error.what());
}

/// What went wrong with GPUs while they ran a step.
class StepErrors {
 public:
  bool empty() const { return errors_.empty(); }
  void add(uint32_t gpu, const MachineError& error, const StepSlot& slot) {
    errors_.push_back({gpu, error, &slot});
  }

  /// With what each SM claimed last (it may still be at the instruction before). An illegal access
  /// takes the GPUs down that can reach the one where it happened, and CUDA does not say which that
  /// was: the one that is furthest behind is named, as the others went on until they missed it.
  MachineError worst() const {
    const Error& named =
        *std::min_element(errors_.begin(), errors_.end(), [](const Error& a, const Error& b) {
          const StepProgress of_a = a.slot->furthest_behind();
          const StepProgress of_b = b.slot->furthest_behind();
          return of_a.begun != of_b.begun ? of_a.begun
                                          : of_a < of_b;  // who ran nothing did nothing
        });
    std::string text = of_gpu(named.gpu, named.error).what();
    for (const Error& other : errors_) {
      if (&other != &named) {
        const bool ahead = other.slot->furthest_behind() > named.slot->furthest_behind();
        text += "; gpu " + std::to_string(other.gpu) + " too" +
                (ahead ? ", further on in the step" : "");
      }
    }
    const std::string last = named.slot->last_instructions();
    return MachineError(text + (last.empty() ? last : "; claimed last:" + last));
  }

 private:
  struct Error {
    uint32_t gpu;
    MachineError error;
    const StepSlot* slot;
  };
  std::vector<Error> errors_;
};

}  // namespace

CudaMachine::CudaMachine(const ModelShape& shape, const StepLimits& limits,
                         const CudaOptions& options)
    : shape_(checked(shape)),
      limits_(limits),
      num_ranks_(options.is_alone ? 1 : shape.world),
      options_(checked(options, num_ranks_)),
      layout_(heap_layout(shape, limits)),
      zeros_(pinned_bytes(layout_.size(Buffer::kCounters) / 2, 0)),
      one_(pinned_bytes(sizeof(uint32_t), 1)) {
  // All modules and all memory exist before the first launch.
  const std::vector<int> devices = open_devices(num_ranks_ / options.ranks_per_gpu);
  num_sms_ = sms_to_use(options, fewest_sms(devices));
  const uint64_t rank_bytes = usual_step_bytes(shape, limits, num_sms_);
  for (const int device : devices) {
    check_cuda(cudaSetDevice(device));
    prepare_megakernel(shape_, options.ranks_per_gpu);
    devices_.push_back(std::make_unique<DeviceRanks>(device, num_devices() * options.ranks_per_gpu,
                                                     options.ranks_per_gpu, num_sms_, shape, limits,
                                                     layout_, options, rank_bytes));
  }
  sm90::AbortBoard board{};
  for (uint32_t i = 0; i < kMaxGpus; ++i) {
    board.flags[i] = &rank_at(i % num_ranks_).abort_board()->raised;
  }
  for (const auto& device : devices_) {
    device->set_abort_board(board);
  }
  devices_[0]->use();
  all_clear_ = std::make_unique<Event>();
  for (auto& results : results_) {
    results = std::make_unique<StepResults>(limits.compact_blocks() * kRowBlock);
  }
}

CudaMachine::~CudaMachine() = default;

void CudaMachine::set_model(const PackedModel& model, const SharedTables& tables, uint32_t rank) {
  device_of(rank).use();
  weights(rank).load_packed(model, tables);
}

std::vector<RankParams> CudaMachine::params_of(const DeviceRanks& device) const {
  StepParams common{};
  common.shape = shape_;
  common.limits = limits_;
  common.layout = layout_;
  common.bank = bank_;
  common.bank_counters = layout_.size(Buffer::kCounters) / (2 * sizeof(uint32_t));
  common.watchdog_ns = options_.watchdog_ns;
  common.trace = options_.trace_events != 0 ? 1u : 0u;
  sm90::LaunchView view{};
  view.watchdog_ns = options_.watchdog_ns;
  view.world = shape_.world;
  view.delays = options_.delays;
  for (uint32_t rank = 0; rank < shape_.world; ++rank) {
    common.heaps[rank] = rank_at(rank % num_ranks_).heap.data();
  }
  std::vector<RankParams> params(device.size(), {.step = common, .view = view});
  const StepSlot& slot = device.slot(slot_);
  for (uint32_t i = 0; i < device.size(); ++i) {
    const Rank& rank = device.rank(i);
    RankParams& own = params[i];
    own.step.gpu = own.view.gpu = device.first_rank() + i;
    own.step.model = rank.weights.view();
    own.step.tables = slot.step(i).tables;
    own.step.program = slot.step(i).program;
    own.view.abort = rank.abort_board();
    own.view.report = &slot.report(i);
    // With peers only, where a lost GPU is to be explained: a store to the host for each claim.
    own.view.last_claims = shape_.world > 1 ? slot.last_claims(i) : nullptr;
    own.view.trace = rank.trace_buffer(options_.trace_events);
  }
  return params;
}

uint32_t CudaMachine::upload(const LoweredStep& step) {
  constexpr const char* kOp = "cuda machine";
  check(step.gpus.size() == num_ranks_, kOp, "the step was lowered for ", step.gpus.size(),
        " GPUs, the machine has ", num_ranks_);
  const uint32_t next = (slot_ + 1) % kNumSlots;
  wait_until_ended(next);
  for (const auto& device : devices_) {
    device->use();
    device->slot(next).upload(step, device->copies());
  }
  results_[next]->prepare(step, shape_);
  slot_ = next;
  return next;
}

void CudaMachine::launch(bool fetch, Event* begin) {
  if (fetch) {
    results_[slot_]->reserve_logits(logits_cols());
  }
  bank_ ^= 1u;
  for (const auto& device : devices_) {
    device->use();
    all_clear_->hold(device->stream());
    device->begin(slot_, device == devices_[0] ? begin : nullptr);
  }
  launch_all();
  for (const auto& device : devices_) {
    if (fetch) {
      device->fetch(*results_[slot_], layout_, logits_cols());
    }
  }
  clear_other_bank();
  used_bytes_[bank_] =
      BankLayout::size(results_[slot_]->counters().size(), shape_.num_layers) * sizeof(uint32_t);
  for (const auto& device : devices_) {
    device->use();
    device->slot(slot_).ended.record(device->stream());
  }
}

void CudaMachine::launch_all() {
  std::vector<std::vector<RankParams>> params;  // ready, so that nothing comes between the launches
  for (const auto& device : devices_) {
    params.push_back(params_of(*device));
  }
  uint32_t launched = 0;
  try {
    for (; launched < num_devices(); ++launched) {
      const DeviceRanks& device = *devices_[launched];
      device.use();
      launch_megakernel(params[launched], num_sms_, device.stream());
    }
  } catch (const std::exception& error) {  // a lack of memory too
    // Those that run wait for one that never will: they are told so, the watchdog need not.
    for (uint32_t i = 0; i < launched; ++i) {
      devices_[i]->stop(one_);
    }
    recover();
    throw of_gpu(launched, error);
  }
}

void CudaMachine::clear_other_bank() {
  // The other bank's step has ended on all GPUs when this one starts on any: nobody counts there
  // any more, and it is cleared meanwhile. A GPU may count at its peers as soon as its next step
  // starts, so that step waits until all are clear.
  const uint32_t other = bank_ ^ 1u;
  if (used_bytes_[other] == 0) {
    return;
  }
  for (const auto& device : devices_) {
    device->clear_bank(slot_, other, used_bytes_[other], zeros_, layout_);
  }
  used_bytes_[other] = 0;
  devices_[0]->use();
  for (const auto& device : devices_) {
    device->cleared().hold(devices_[0]->copies());
  }
  all_clear_->record(devices_[0]->copies());
}

const StepSlot& CudaMachine::last_begun(const DeviceRanks& device) const {
  for (uint32_t back = 0; back < kNumSlots; ++back) {
    const StepSlot& slot = device.slot((slot_ + kNumSlots - back) % kNumSlots);
    if (slot.furthest_behind().begun) {
      return slot;
    }
  }
  return device.slot(slot_);
}

void CudaMachine::wait_until_ended(uint32_t slot) const {
  // All of them, also after an error: a GPU whose peer is lost ends by its own watchdog, or is lost
  // with it.
  StepErrors errors;
  for (uint32_t i = 0; i < num_devices(); ++i) {
    try {
      devices_[i]->use();
      devices_[i]->slot(slot).ended.wait();
    } catch (const MachineError& error) {
      errors.add(i, error, last_begun(*devices_[i]));
    }
  }
  if (!errors.empty()) {
    throw errors.worst();
  }
}

void CudaMachine::check_ended(uint32_t slot) {
  const sm90::WatchdogReport* earliest = nullptr;
  for (uint32_t rank = 0; rank < num_ranks_; ++rank) {
    const sm90::WatchdogReport& seen =
        device_of(rank).slot(slot).report(rank % options_.ranks_per_gpu);
    if (seen.raised != 0 && (earliest == nullptr || seen.at_ns < earliest->at_ns)) {
      earliest = &seen;
    }
  }
  if (earliest != nullptr) {
    const std::string text = diagnosis(*earliest, results_[slot]->counters());
    recover();
    throw WatchdogError(text);
  }
}

void CudaMachine::drain() const {
  for (const auto& device : devices_) {
    device->drain();
  }
}

void CudaMachine::recover() {
  drain();
  for (const auto& device : devices_) {
    device->reset(layout_);
  }
  used_bytes_[0] = used_bytes_[1] = 0;
}

void CudaMachine::run(const LoweredStep& step) {
  upload(step);
  launch();
  wait();
}

float CudaMachine::elapsed_ms(uint32_t slot) const {
  devices_[0]->use();
  const StepSlot& place = devices_[0]->slot(slot);
  float ms = 0;
  check_cuda(cudaEventElapsedTime(&ms, place.begun.get(), place.ended.get()));
  return ms;
}

std::vector<TraceEvent> CudaMachine::events() {
  drain();
  std::vector<TraceEvent> events;
  for (uint32_t rank = 0; rank < num_ranks_; ++rank) {
    device_of(rank).use();
    const std::vector<TraceEvent> own = rank_at(rank).events(options_.trace_events);
    events.insert(events.end(), own.begin(), own.end());
  }
  return events;
}

void CudaMachine::read(Buffer buffer, uint64_t offset, void* target, uint64_t bytes,
                       uint32_t rank) {
  drain();
  device_of(rank).use();
  check_cuda(cudaMemcpy(target, rank_at(rank).at(layout_, buffer) + offset, bytes,
                        cudaMemcpyDeviceToHost));
}

void CudaMachine::write(Buffer buffer, uint64_t offset, const void* source, uint64_t bytes,
                        uint32_t rank) {
  drain();
  device_of(rank).use();
  check_cuda(
      cudaMemcpy(rank_at(rank).at(layout_, buffer) + offset, source, bytes, cudaMemcpyDefault));
}

}  // namespace terrazzo::cuda
