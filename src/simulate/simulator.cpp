#include "simulate/simulator.hpp"

#include <algorithm>
#include <utility>

#include "simulate/estimate.hpp"
#include "simulate/sim_gpu.hpp"
#include "simulate/sim_program.hpp"
#include "terrazzo/core/check.hpp"

namespace terrazzo {
namespace {

constexpr uint64_t kMostEvents = 1000;  // an instruction takes some ten

class Simulation {
 public:
  Simulation(const LoweredStep& step, const ModelShape& shape, const CostModel& model,
             const SimOptions& options)
      : shape_(shape), model_(model), options_(options), per_block_(step.counters_per_block()) {
    std::vector<SimProgram> programs =
        compile_programs(step, shape, model, options.layers, options.clock);
    const uint32_t objects = num_objects(programs);
    const uint32_t sms = options.num_sms != 0 ? options.num_sms : model.num_sms;
    for (SimProgram& program : programs) {
      const uint32_t counters = per_block_ * (program.view.num_layers + 2);
      gpus_.emplace_back(std::move(program), sms, counters, objects, model.cache_bytes);
    }
  }

  SimResult run() {
    for (SimGpu& gpu : gpus_) {
      for (uint32_t sm = 0; sm < gpu.sms.size(); ++sm) {
        claim(gpu, gpu.sms[sm], 0);
        gpu.events.set(sm, gpu.sms[sm].next(model_.ring_slots));
      }
    }
    uint64_t most_events = kMostEvents;
    for (const SimGpu& gpu : gpus_) {
      most_events += kMostEvents * gpu.program.view.queue_size();
    }
    for (SimGpu* gpu = first_gpu(); gpu != nullptr; gpu = first_gpu()) {
      const uint32_t sm = gpu->events.first();
      advance(*gpu, sm, gpu->events.time(sm));
      if (most_events-- == 0) {
        fail("simulate", "no progress after ", gpu->events.time(sm), " ns");
      }
    }
    return finish();
  }

 private:
  SimGpu* first_gpu() {
    SimGpu* first = nullptr;
    double soonest = kNever;
    for (SimGpu& gpu : gpus_) {
      const double time = gpu.events.time(gpu.events.first());
      if (time < soonest) {
        soonest = time;
        first = &gpu;
      }
    }
    return first;
  }

  SimResult finish() {
    SimResult result;
    for (SimGpu& gpu : gpus_) {
      check(gpu.ended, "simulate", "the programs of gpu ", &gpu - gpus_.data(),
            " block after position ", gpu.next_position, ": a wait is never met");
      result.step_ns = std::max(result.step_ns, gpu.end_ns + model_.launch_ns);
      result.totals.push_back(gpu.totals);
    }
    result.events = std::move(trace_);
    return result;
  }

  // --- one SM at one time ---

  void advance(SimGpu& gpu, uint32_t index, double now) {
    SimSm& sm = gpu.sms[index];
    gpu.cache.settle(now);
    sm.flow.settle(now, model_.ring_slots);
    while (act(gpu, index, sm, now)) {
    }
    gpu.retune(index, model_);
    if (gpu.is_off(model_, options_.tolerance)) {
      gpu.share_out(model_, options_.tolerance, now);
    }
    gpu.cache.set_fill(gpu.usage.fill);
  }

  /// Does one thing that is due; false if there is none.
  bool act(SimGpu& gpu, uint32_t index, SimSm& sm, double now) {
    if (sm.claim_ns <= now) {
      sm.claim_ns = kNever;
      sm.has_pending = true;
    }
    if (sm.has_pending && sm.claimed - sm.stored < SimSm::kInstructionRing) {
      sm.has_pending = false;
      sm.pending.claimed_ns = now;
      sm.entry(sm.claimed++) = sm.pending;
      return true;
    }
    if (sm.store_ns <= now) {
      end_store(gpu, index, sm, now);
      return true;
    }
    return act_loader(gpu, index, sm, now) || act_consumer(gpu, index, sm, now);
  }

  bool act_loader(SimGpu& gpu, uint32_t index, SimSm& sm, double now) {
    if (sm.loader == LoaderState::kIdle && sm.loaded < sm.claimed) {
      sm.loader = LoaderState::kWaiting;
      sm.has_claim = false;
      sm.load_begin_ns = now;
      sm.wait_index = 0;
      sm.wait_counter = 0;
      sm.seen_ns = now;
      wait(gpu, index, sm, now);
      return true;
    }
    if (sm.loader == LoaderState::kStarting && sm.loader_ns <= now) {
      start_load(gpu, sm, now);
      return true;
    }
    if (sm.loader == LoaderState::kLoading && !sm.has_claim && sm.flow.claim_due()) {
      claim(gpu, sm, now);
      return true;
    }
    if (sm.flow.load_done()) {
      sm.flow.end_load();
      sm.loader = LoaderState::kIdle;
      sm.last_load_ns = now;
      if (sm.loaded == sm.consumed) {
        sm.flow.set_landed();
      }
      record(gpu, index, sm.entry(sm.loaded), RoleKind::kLoader, sm.load_begin_ns, now,
             sm.load_start_ns - sm.load_begin_ns + sm.flow.load_waited_ns() - sm.load_waited_ns);
      ++sm.loaded;
      return true;
    }
    return false;
  }

  bool act_consumer(SimGpu& gpu, uint32_t index, SimSm& sm, double now) {
    switch (sm.consumer) {
      case ConsumerState::kIdle:
        if (sm.consumed == sm.claimed) {
          return false;
        }
        sm.consumer = ConsumerState::kStarting;
        sm.consumer_ns = now + model_.handover_ns;
        return true;
      case ConsumerState::kStarting: {
        if (sm.consumer_ns > now) {
          return false;
        }
        sm.consumer_ns = kNever;
        sm.consumer = ConsumerState::kStreaming;
        sm.consume_begin_ns = now;
        const SimInstruction& code = *sm.entry(sm.consumed).code;
        sm.flow.start_stream(code.slots, code.tensor_ns, code.stream_ns, code.tensor_flops,
                             sm.loaded > sm.consumed);
        sm.consume_waited_ns = sm.flow.stream_waited_ns();
        return true;
      }
      case ConsumerState::kStreaming:
        if (!sm.flow.stream_done()) {
          return false;
        }
        if (sm.loaded == sm.consumed) {  // rounding: all that is used has landed
          const bool rounded = sm.flow.loading() && !sm.flow.load_done();
          sm.flow.finish_load();
          return rounded;
        }
        sm.flow.end_stream();
        sm.consumer = ConsumerState::kBlocked;
        sm.tail_begin_ns = now;
        return true;
      case ConsumerState::kBlocked:
        if (sm.storing) {
          return false;
        }
        sm.consumer = ConsumerState::kTail;
        sm.consume_waited_ns -= now - sm.tail_begin_ns;
        sm.consumer_ns = now + sm.entry(sm.consumed).code->tail_ns;
        start_store(gpu, sm, now);
        return true;
      case ConsumerState::kTail:
        if (sm.consumer_ns > now) {
          return false;
        }
        sm.consumer_ns = kNever;
        sm.consumer = ConsumerState::kIdle;
        record(gpu, index, sm.entry(sm.consumed), RoleKind::kConsumer0, sm.consume_begin_ns, now,
               sm.flow.stream_waited_ns() - sm.consume_waited_ns);
        if (options_.order != nullptr) {
          options_.order->finished(index_of(gpu), sm.entry(sm.consumed).position);
        }
        ++sm.consumed;
        return true;
    }
    return false;
  }

  // --- controller ---

  void claim(SimGpu& gpu, SimSm& sm, double now) {
    sm.has_claim = true;
    const uint32_t size = gpu.program.view.queue_size();
    while (gpu.next_position < size) {
      uint32_t position = gpu.next_position++;
      if (options_.order != nullptr) {
        position = options_.order->next(index_of(gpu), &is_ready, this);
      }
      const QueuePlace place = place_of(gpu.program.view, position);
      if (!place.skip) {
        sm.pending = {&gpu.program.at(place), position, place.layer, 0, 0};
        sm.claim_ns = now + model_.claim_ns;
        return;
      }
    }
    sm.at_end = true;
  }

  uint32_t index_of(const SimGpu& gpu) const { return static_cast<uint32_t>(&gpu - gpus_.data()); }

  static bool is_ready(const void* context, uint32_t index, uint32_t position) {
    const auto& self = *static_cast<const Simulation*>(context);
    const SimGpu& gpu = self.gpus_[index];
    const QueuePlace place = place_of(gpu.program.view, position);
    if (place.skip) {
      return true;
    }
    for (const Wait& wait : place.instruction->waits) {
      for (int32_t i = 0; i < wait.count; ++i) {
        const uint32_t counter = counter_index(self.per_block_, place.layer, wait.first + i);
        if (gpu.counters.at(counter).value < wait.target) {
          return false;
        }
      }
    }
    return true;
  }

  // --- loader ---

  /// Goes on waiting: all is met, or the SM is in the list of a counter.
  void wait(SimGpu& gpu, uint32_t index, SimSm& sm, double now) {
    const SimEntry& entry = sm.entry(sm.loaded);
    for (; sm.wait_index < kNumWaits; ++sm.wait_index, sm.wait_counter = 0) {
      const Wait& wait = entry.code->instruction->waits[sm.wait_index];
      for (; sm.wait_counter < wait.count; ++sm.wait_counter) {
        const uint32_t counter = counter_index(per_block_, entry.layer,
                                               wait.first + static_cast<int32_t>(sm.wait_counter));
        SimCounters::Cell& cell = gpu.counters.at(counter);
        if (cell.value < wait.target) {
          cell.awaited = cell.waiters.empty() ? wait.target : std::min(cell.awaited, wait.target);
          cell.waiters.push_back(index);
          return;
        }
        sm.seen_ns = std::max(sm.seen_ns, cell.seen_ns);
      }
    }
    const bool goes_on = sm.last_load_ns == now && sm.seen_ns <= now;
    sm.loader = LoaderState::kStarting;
    sm.loader_ns = sm.seen_ns + (goes_on ? 0 : model_.load_latency_ns);
  }

  void start_load(SimGpu& gpu, SimSm& sm, double now) {
    SimEntry& entry = sm.entry(sm.loaded);
    const SimInstruction& code = *entry.code;
    entry.hbm_bytes = code.stream_bytes;
    for (const SimOperand& operand : code.operands) {
      entry.hbm_bytes += gpu.cache.load(operand, entry.layer);
    }
    gpu.totals.hbm_bytes += entry.hbm_bytes;
    gpu.totals.l2_bytes += code.load_bytes;
    gpu.totals.tensor_flops += code.tensor_flops;
    sm.loader = LoaderState::kLoading;
    sm.loader_ns = kNever;
    sm.load_start_ns = now;
    sm.load_waited_ns = sm.flow.load_waited_ns();
    sm.flow.start_load(code.slots, code.slot_ns, code.load_bytes, entry.hbm_bytes,
                       entry.hbm_bytes - code.stream_bytes,
                       code.load_bytes + model_.l2_per_hbm * entry.hbm_bytes);
  }

  // --- storer ---

  void start_store(SimGpu& gpu, SimSm& sm, double now) {
    const SimInstruction& code = *sm.entry(sm.consumed).code;
    sm.storing = true;
    sm.store_begin_ns = now;
    double end = sm.consumer_ns + code.store_ns;
    if (code.peer_store_bytes > 0) {
      gpu.totals.peer_bytes += code.peer_store_bytes;
      gpu.link_free_ns =
          std::max(gpu.link_free_ns, now) + code.peer_store_bytes / model_.nvlink_gbps;
      end = std::max({end, gpu.link_free_ns, now + code.peer_store_bytes / model_.sm_peer_gbps});
    }
    sm.store_ns = end + model_.store_latency_ns;
  }

  void end_store(SimGpu& gpu, uint32_t index, SimSm& sm, double now) {
    const SimEntry& entry = sm.entry(sm.stored);
    const SimInstruction& code = *entry.code;
    gpu.cache.write(code.output, code.local_store_bytes, entry.layer);
    const double begin = std::max(entry.claimed_ns, sm.stored_ns);
    for (const RoleKind role : {RoleKind::kStorer0, RoleKind::kStorer1}) {
      record(gpu, index, entry, role, begin, now, sm.store_begin_ns - begin);
    }
    sm.storing = false;
    sm.store_ns = kNever;
    sm.stored_ns = now;
    ++sm.stored;
    gpu.end_ns = std::max(gpu.end_ns, now);
    gpu.ended = gpu.ended || code.instruction->opcode == Opcode::kStepEnd;
    const uint32_t own = index_of(gpu);
    for (const Signal& signal : code.instruction->signals) {
      for (uint32_t target = 0; signal.count > 0 && target < gpus_.size(); ++target) {
        if ((signal.gpus >> target & 1U) != 0) {
          const double seen = now + (target == own ? model_.signal_ns : model_.peer_signal_ns);
          add(gpus_[target], entry.layer, signal, seen, now);
        }
      }
    }
  }

  /// Both storers have added to the counters of a signal.
  void add(SimGpu& gpu, int32_t layer, const Signal& signal, double seen, double now) {
    for (int32_t i = 0; i < signal.count; ++i) {
      SimCounters::Cell& cell = gpu.counters.at(counter_index(per_block_, layer, signal.first + i));
      cell.value += kNumConsumers * signal.increment;
      cell.seen_ns = std::max(cell.seen_ns, seen);
      if (cell.waiters.empty() || cell.value < cell.awaited) {
        continue;
      }
      std::vector<uint32_t> waiters;
      waiters.swap(cell.waiters);
      for (const uint32_t waiter : waiters) {
        SimSm& sm = gpu.sms[waiter];
        wait(gpu, waiter, sm, now);
        gpu.events.set(waiter, sm.next(model_.ring_slots));
      }
    }
  }

  // --- trace ---

  void record(const SimGpu& gpu, uint32_t sm, const SimEntry& entry, RoleKind role, double begin,
              double end, double waited) {
    if (!options_.trace) {
      return;
    }
    const double whole = std::clamp(waited, 0.0, end - begin);
    TraceEvent event{static_cast<uint64_t>(begin),
                     static_cast<uint64_t>(end),
                     0,
                     entry.position,
                     entry.layer,
                     static_cast<uint16_t>(sm),
                     static_cast<uint8_t>(&gpu - gpus_.data()),
                     role,
                     entry.code->instruction->opcode,
                     0};
    event.waited_ns = std::min(static_cast<uint64_t>(whole), event.end_ns - event.begin_ns);
    trace_.push_back(event);
    if (role == RoleKind::kConsumer0) {  // both consumers are one in the model
      event.role = RoleKind::kConsumer1;
      trace_.push_back(event);
    }
  }

  const ModelShape& shape_;
  const CostModel& model_;
  const SimOptions& options_;
  uint32_t per_block_;
  std::vector<SimGpu> gpus_;
  std::vector<TraceEvent> trace_;
};

}  // namespace

SimResult simulate(const LoweredStep& step, const ModelShape& shape, const CostModel& model,
                   const SimOptions& options) {
  model.check_complete();
  check(step.num_layers > 0 && !step.gpus.empty(), "simulate", "expected a step with layers");
  SimOptions known = options;
  if (known.clock == 0) {
    known.clock = model.power_tflops == 0 ? 1 : estimate(step, shape, model, options.num_sms).clock;
  }
  SimResult result = Simulation(step, shape, model, known).run();
  result.clock = known.clock;
  return result;
}

}  // namespace terrazzo
