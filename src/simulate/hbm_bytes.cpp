#include "simulate/hbm_bytes.hpp"

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>

#include "simulate/sim_memory.hpp"
#include "simulate/sim_program.hpp"
#include "terrazzo/core/check.hpp"

namespace terrazzo {
namespace {

/// L2 while loads come and go: each brings its bytes in evenly over its time.
class Replay {
 public:
  Replay(uint32_t objects, double capacity) : cache_(objects, capacity) {}

  SimCache& at(double now) {
    while (!ends_.empty() && ends_.top().first <= now) {
      cache_.settle(ends_.top().first);
      fill_ -= ends_.top().second;
      cache_.set_fill(std::max(fill_, 0.0));
      ends_.pop();
    }
    cache_.settle(now);
    return cache_;
  }
  void begin(double bytes, const LoadTime& load) {
    const double rate = bytes / std::max(load.end_ns - load.begin_ns, 1.0);
    fill_ += rate;
    cache_.set_fill(fill_);
    ends_.emplace(load.end_ns, rate);
  }

 private:
  using End = std::pair<double, double>;  // time, bytes a nanosecond
  SimCache cache_;
  double fill_ = 0;
  std::priority_queue<End, std::vector<End>, std::greater<>> ends_;
};

}  // namespace

std::vector<double> hbm_bytes(const LoweredStep& step, const ModelShape& shape,
                              const CostModel& model, uint32_t gpu,
                              std::span<const LoadTime> loads) {
  check(gpu < step.gpus.size(), "hbm bytes", "gpu ", gpu, " of ", step.gpus.size());
  const std::vector<SimProgram> programs = compile_programs(step, shape, model, 0);
  Replay replay(num_objects(programs), model.cache_bytes);
  std::vector<double> bytes;
  bytes.reserve(loads.size());
  for (const LoadTime& load : loads) {
    check(load.position < programs[gpu].view.queue_size(), "hbm bytes", "position ", load.position,
          " of ", programs[gpu].view.queue_size());
    const QueuePlace place = place_of(programs[gpu].view, load.position);
    const SimInstruction& code = programs[gpu].at(place);
    SimCache& cache = replay.at(load.begin_ns);
    double fetched = 0;
    for (const SimOperand& operand : code.operands) {
      fetched += cache.load(operand, place.layer);
    }
    cache.write(code.output, code.local_store_bytes, place.layer);
    replay.begin(fetched, load);
    bytes.push_back(fetched + code.stream_bytes);
  }
  return bytes;
}

}  // namespace terrazzo
