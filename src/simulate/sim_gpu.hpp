// One simulated GPU: its SMs and what they share.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "simulate/sim_memory.hpp"
#include "simulate/sim_sm.hpp"
#include "simulate/simulator.hpp"

namespace terrazzo {

struct SimGpu {
  SimGpu(SimProgram code, uint32_t num_sms, uint32_t num_counters, uint32_t objects,
         double cache_bytes)
      : program(std::move(code)),
        sms(num_sms),
        events(num_sms),
        counters(num_counters),
        cache(objects, cache_bytes) {}

  SimProgram program;
  std::vector<SimSm> sms;
  EventTree events;
  SimCounters counters;
  SimCache cache;
  uint32_t next_position = 0;
  Shares shares;
  Usage usage;              // of all SMs
  double link_free_ns = 0;  // when NVLink has sent all that was handed to it
  double end_ns = 0;        // of what has been stored so far
  bool ended = false;       // step_end is among it
  SimTotals totals;

  /// After a change on an SM.
  void retune(uint32_t index, const CostModel& model) {
    SimSm& sm = sms[index];
    usage -= sm.flow.usage();
    sm.flow.retune(shares, model.ring_slots);
    usage += sm.flow.usage();
    events.set(index, sm.next(model.ring_slots));
  }

  /// Whether a resource is overdrawn, or slows somebody although it is not used up.
  bool is_off(const CostModel& model, double tolerance) const {
    const double slack = std::max(tolerance, kLeastSlack);
    const auto off = [slack](double share, double used, double capacity) {
      return used > capacity * (1 + slack) || (share < 1 && used < capacity * (1 - slack));
    };
    return off(shares.hbm, usage.hbm, model.hbm_gbps) || off(shares.l2, usage.l2, model.l2_gbps) ||
           off(shares.tensor, usage.tensor, tensor_capacity(model));
  }

  /// Finds shares at which no resource is off, from `now` on.
  void share_out(const CostModel& model, double tolerance, double now) {
    for (SimSm& sm : sms) {
      sm.flow.settle(now, model.ring_slots);
    }
    const auto scale = [](double share, double used, double capacity) {
      return used > 0 ? std::clamp(share * capacity / used, kLeastShare, 1.0) : 1.0;
    };
    for (uint32_t pass = 0; pass < kMostPasses && is_off(model, tolerance); ++pass) {
      shares.hbm = scale(shares.hbm, usage.hbm, model.hbm_gbps);
      shares.l2 = scale(shares.l2, usage.l2, model.l2_gbps);
      shares.tensor = scale(shares.tensor, usage.tensor, tensor_capacity(model));
      usage = {};
      for (SimSm& sm : sms) {
        sm.flow.retune(shares, model.ring_slots);
        usage += sm.flow.usage();
      }
    }
    for (uint32_t i = 0; i < sms.size(); ++i) {
      events.set_only(i, sms[i].next(model.ring_slots));
    }
    events.rebuild();
  }

 private:
  static constexpr double kFlopsPerNs = 1e3;  // of one TFLOP/s
  static constexpr double kLeastShare = 1e-4;
  static constexpr double kLeastSlack = 1e-9;
  static constexpr double kLeastTensor = 0.1;  // of its capacity: HBM never takes all the power
  static constexpr uint32_t kMostPasses = 12;

  double tensor_capacity(const CostModel& model) const {
    const double tflops = model.tensor_tflops - model.tflops_per_hbm_tbps * usage.hbm * 1e-3;
    return std::max(tflops, model.tensor_tflops * kLeastTensor) * kFlopsPerNs;
  }
};

}  // namespace terrazzo
