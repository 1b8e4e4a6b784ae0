#include "machine/cuda/cuda_model.hpp"

#include <algorithm>
#include <deque>
#include <exception>
#include <mutex>

#include "lower/lower.hpp"
#include "lower/part_of_step.hpp"
#include "lower/verifier.hpp"
#include "machine/cuda/cuda.hpp"
#include "machine/cuda/cuda_machine.hpp"
#include "machine/cuda/random_fill.hpp"

namespace terrazzo::cuda {
namespace {

constexpr uint64_t kSweepBytes = 128 << 20;  // an H100's L2 holds 50 MB

/// The machine's random sums of squares: rows of 64-column panels of values even in [-1, 1).
constexpr float kPanelSumSq = kPanelCols / 3.0F;

/// What instructions read as bf16 values. The others keep what the machine gave them: zeros.
constexpr Buffer kValueBuffers[] = {Buffer::kX,       Buffer::kX1,     Buffer::kQPrefill,
                                    Buffer::kQDecode, Buffer::kKvPool, Buffer::kAttention,
                                    Buffer::kAct,     Buffer::kCompact};

/// One launch between two events.
struct TimedLaunch {
  Event begin{cudaEventDefault};
  Event end{cudaEventDefault};

  float ms() const {
    float ms = 0;
    check_cuda(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    return ms;
  }
};

/// What is known of a step in flight.
struct InFlight {
  uint64_t number;
  uint32_t slot;
  uint32_t num_rows;  // that get a token
  uint32_t num_wanted_logits;
};

CudaOptions machine_options(const CudaModelOptions& options, uint32_t world) {
  check(options.ranks_per_gpu > 0, "cuda", "expected ranks_per_gpu of at least 1, got 0");
  const std::string problem = device_problem(ceil_div(world, options.ranks_per_gpu));
  check(problem.empty(), "cuda", problem);
  check_cuda(cudaSetDevice(0));
  return {.num_sms = options.num_sms,
          .watchdog_ns = options.watchdog_ns,
          .reserve_sms = options.reserve_sms,
          .stream = reinterpret_cast<cudaStream_t>(options.stream),
          .trace_events = options.trace_events,
          .ranks_per_gpu = options.ranks_per_gpu};
}

}  // namespace

static_assert(CudaModel::kMaxInFlight < CudaMachine::kNumSlots,
              "a step is prepared in a slot that no step in flight has");

struct CudaModel::Parts {
  Parts(const ModelShape& shape, const StepLimits& limits, const CudaModelOptions& options)
      : machine(shape, limits, machine_options(options, shape.world)) {}

  void finish_loading();
  StepOutputs results(const InFlight& flight) const;
  std::vector<float> time(const LoweredStep& timed, const TimingOptions& options);

  CudaMachine machine;
  LoweredStep step;  // storage for the next one
  std::mutex mutex;  // of what follows, and of calls to the machine
  std::deque<InFlight> in_flight;
  uint64_t num_submitted = 0;
  size_t num_sampled = 0;  // by the step submitted last
  uint32_t collected_slot = 0;
  bool loaded = false;
  bool collecting = false;
};

CudaModel::CudaModel(const ModelShape& shape, const StepLimits& limits,
                     const CudaModelOptions& options)
    : shape_(shape), limits_(limits), parts_(std::make_unique<Parts>(shape, limits, options)) {}

CudaModel::~CudaModel() = default;

uint32_t CudaModel::num_sms() const { return parts_->machine.num_sms(); }

void CudaModel::set_watchdog_ns(uint64_t limit) {
  const std::lock_guard lock(parts_->mutex);
  parts_->machine.set_watchdog_ns(limit);
}

void CudaModel::set_delays(const DelayOptions& delays) {
  const std::lock_guard lock(parts_->mutex);
  parts_->machine.set_delays({delays.seed, delays.most_ns});
}

void CudaModel::pack_rows(uint32_t rank, const RowMove& move, const SourceMatrix& source) {
  check(rank < shape_.world, "pack_rows", "gpu ", rank, " of ", shape_.world);
  parts_->machine.weights(rank).load_rows(move, source);
}

void CudaModel::pack_repeated(uint32_t rank, const RowMove& move, const RepeatedMatrix& source) {
  check(rank < shape_.world, "pack_repeated", "gpu ", rank, " of ", shape_.world);
  parts_->machine.weights(rank).load_repeated(move, source);
}

void CudaModel::set_tables(const SourceMatrix& embedding, std::span<const bf16> final_norm,
                           std::span<const float> rope) {
  for (uint32_t rank = 0; rank < shape_.world; ++rank) {
    parts_->machine.weights(rank).load_tables(embedding, final_norm, rope);
  }
  parts_->finish_loading();
}

void CudaModel::set_tables(const RepeatedMatrix& embedding, std::span<const bf16> final_norm,
                           std::span<const float> rope) {
  for (uint32_t rank = 0; rank < shape_.world; ++rank) {
    parts_->machine.weights(rank).load_tables(embedding, final_norm, rope);
  }
  parts_->finish_loading();
}

void CudaModel::Parts::finish_loading() {
  for (uint32_t rank = 0; rank < machine.shape().world; ++rank) {
    machine.weights(rank).finish();
  }
  const std::lock_guard lock(mutex);
  loaded = true;
}

void CudaModel::fill_random(uint64_t seed) {
  constexpr float kWeightScale = 0.03F;  // keeps activations of some thousand columns near 1
  Parts& parts = *parts_;
  CudaMachine& machine = parts.machine;
  const std::lock_guard lock(parts.mutex);
  for (uint32_t rank = 0; rank < shape_.world; ++rank) {
    machine.use_device_of(rank);
    // The same for all ranks but for the seed, on the rank's own GPU.
    const DeviceMemory values = random_block(1.0F, seed + 2 * rank);
    machine.weights(rank).fill(random_block(kWeightScale, seed + 2 * rank + 1), values);
    machine.weights(rank).finish();
    for (const Buffer buffer : kValueBuffers) {
      const uint64_t bytes = machine.layout().size(buffer);
      for (uint64_t at = 0; at < bytes; at += values.bytes()) {
        machine.write(buffer, at, values.data(), std::min<uint64_t>(values.bytes(), bytes - at),
                      rank);
      }
    }
    for (const Buffer buffer : {Buffer::kSumSqX, Buffer::kSumSqX1}) {
      const std::vector<float> sums(machine.layout().size(buffer) / sizeof(float), kPanelSumSq);
      machine.write(buffer, 0, sums.data(), sums.size() * sizeof(float), rank);
    }
    check_cuda(cudaDeviceSynchronize());  // the machine's stream does not wait for these copies
  }
  parts.loaded = true;
}

std::vector<float> CudaModel::Parts::time(const LoweredStep& timed, const TimingOptions& options) {
  check(loaded, "time_step", "the model has no weights yet: call set_tables or fill_random first");
  check(in_flight.empty(), "time_step", "steps are in flight: collect them first");
  num_sampled = 0;                  // launches may overwrite what a placeholder stands for
  std::vector<DeviceMemory> swept;  // of each GPU
  for (uint32_t device = 0; device < machine.num_devices(); ++device) {
    machine.use_device(device);
    swept.emplace_back(options.sweep_cache ? kSweepBytes : 0);
  }
  machine.upload(timed);
  machine.use_device(0);
  // All launches are queued at once, so that none waits for the host.
  std::deque<TimedLaunch> launches(options.repeats + 1);
  for (TimedLaunch& launch : launches) {
    for (uint32_t device = 0; options.sweep_cache && device < machine.num_devices(); ++device) {
      machine.use_device(device);
      check_cuda(cudaMemsetAsync(swept[device].data(), 0, kSweepBytes, machine.stream(device)));
    }
    machine.launch(/*fetch=*/false, &launch.begin);
    machine.use_device(0);
    launch.end.record(machine.stream());
  }
  launches.back().end.wait();
  machine.wait();
  std::vector<float> times;
  for (size_t i = 1; i < launches.size(); ++i) {
    times.push_back(launches[i].ms());
  }
  return times;
}

std::vector<float> CudaModel::time_step(const StepRequest& request, std::span<const Opcode> only,
                                        const TimingOptions& options) {
  const std::lock_guard lock(parts_->mutex);
  check_placeholders(request, 0);
  lower_into(parts_->step, request, shape_, limits_, {parts_->machine.num_sms()});
  if (!only.empty()) {
    keep_only(parts_->step, only);
  }
  check(options.layers <= shape_.num_layers, "time_step", "expected at most the model's ",
        shape_.num_layers, " layers, got ", options.layers);
  if (options.layers != 0) {
    parts_->step.num_layers = options.layers;
  }
  return parts_->time(parts_->step, options);
}

std::vector<float> CudaModel::time_empty(uint32_t count, const TimingOptions& options) {
  const std::lock_guard lock(parts_->mutex);
  return parts_->time(empty_step(count, shape_), options);
}

uint64_t CudaModel::submit(const StepRequest& request, const WeavePlan& order) {
  Parts& parts = *parts_;
  const std::lock_guard lock(parts.mutex);
  check(parts.loaded, "step", "the model has no tables yet: call set_tables first");
  check(parts.in_flight.size() < kMaxInFlight, "step", "expected at most ", kMaxInFlight,
        " steps in flight");
  check_placeholders(request, parts.num_sampled);
  lower_into(parts.step, request, shape_, limits_, {parts.machine.num_sms(), order});
  const size_t rows = parts.step.logit_rows.size();
  parts.num_sampled = 0;  // a launch that fails leaves nothing that a placeholder may stand for
  uint32_t slot = 0;
  try {
    slot = parts.machine.upload(parts.step);
    parts.machine.launch(/*fetch=*/true);
  } catch (const MachineError&) {
    parts.in_flight.clear();  // void, as what they ran on
    throw;
  }
  parts.num_sampled = rows;
  parts.in_flight.push_back(
      {parts.num_submitted, slot, static_cast<uint32_t>(rows), parts.step.num_wanted_logits});
  return parts.num_submitted++;
}

StepOutputs CudaModel::collect(uint64_t number) {
  Parts& parts = *parts_;
  InFlight flight{};
  {
    const std::lock_guard lock(parts.mutex);
    check(!parts.collecting, "collect", "another thread is collecting a step");
    check(!parts.in_flight.empty() && parts.in_flight.front().number == number, "collect", "step ",
          number, " is not the oldest one in flight");
    flight = parts.in_flight.front();
    parts.collecting = true;
  }
  // Unlocked: the next step is submitted meanwhile.
  const auto wait = [&] {
    try {
      parts.machine.wait_until_ended(flight.slot);
      return std::exception_ptr();
    } catch (...) {
      return std::current_exception();
    }
  };
  const std::exception_ptr device_error = wait();
  const std::lock_guard lock(parts.mutex);
  parts.collecting = false;
  try {
    if (device_error != nullptr) {
      std::rethrow_exception(device_error);
    }
    parts.machine.check_ended(flight.slot);
    const bool is_void = parts.in_flight.empty() || parts.in_flight.front().number != number;
    if (is_void) {
      throw MachineError("[collect] a step that was submitted meanwhile failed: this one is void");
    }
  } catch (...) {
    parts.in_flight.clear();
    parts.num_sampled = 0;
    throw;
  }
  parts.in_flight.pop_front();
  parts.collected_slot = flight.slot;
  return parts.results(flight);
}

StepOutputs CudaModel::Parts::results(const InFlight& flight) const {
  StepOutputs out;
  out.tokens.resize(flight.num_rows);
  out.logprobs.resize(flight.num_rows);
  const SampledToken* const sampled = machine.sampled(flight.slot);
  for (uint32_t row = 0; row < flight.num_rows; ++row) {
    out.tokens[row] = sampled[row].token;
    out.logprobs[row] = sampled[row].logprob;
  }
  const uint32_t vocab = machine.shape().vocab;
  out.logits.resize(size_t{flight.num_wanted_logits} * vocab);
  for (uint32_t i = 0; i < flight.num_wanted_logits; ++i) {
    std::copy_n(machine.logits(flight.slot) + size_t{i} * machine.logits_cols(), vocab,
                out.logits.data() + size_t{i} * vocab);
  }
  return out;
}

float CudaModel::elapsed_ms() const {
  const std::lock_guard lock(parts_->mutex);
  return parts_->machine.elapsed_ms(parts_->collected_slot);
}

std::vector<TraceEvent> CudaModel::events() {
  const std::lock_guard lock(parts_->mutex);
  return parts_->machine.events();
}

std::vector<std::string> CudaModel::verify(const StepRequest& request,
                                           const WeavePlan& order) const {
  const LoweredStep step = lower(request, shape_, limits_, {num_sms(), order});
  std::vector<std::string> out;
  for (const Problem& problem : terrazzo::verify(step, shape_, limits_)) {
    out.push_back(problem.text);
  }
  return out;
}

}  // namespace terrazzo::cuda
