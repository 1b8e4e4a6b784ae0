#include "simulate/weave_planner.hpp"

#include <algorithm>
#include <vector>

#include "simulate/simulator.hpp"

namespace terrazzo {
namespace {

constexpr uint32_t kRecordedLayers = 4;  // simulated to see what a greedy order does
constexpr uint32_t kRecordedRound = 1;
// Orders that are tried: attention dealt evenly over so much of the other work; or on one of so
// many SMs and wherever the other work waits.
constexpr uint32_t kEvenPercents[] = {80, 95};
constexpr uint32_t kStreamingParts[] = {16, 8, 5, 4, 3};
// An order must be better than the plain one by more than the simulator is exact for: beside plain
// steps, woven ones were simulated up to 7% too fast (docs/overlap.md).
constexpr double kLeastGain = 1.08;

/// Claims of one GPU in a woven program: within a half of a round, attention or other work.
class GreedyGpu {
 public:
  GreedyGpu(const ProgramView& view, std::array<WeaveHalf, 2> halves, uint32_t streaming_sms)
      : view_(view), halves_(std::move(halves)), streaming_sms_(streaming_sms) {}

  template <class Ready>
  uint32_t next(const Ready& ready) {
    const uint32_t body_begin = view_.prologue_size;
    const uint32_t body_end = body_begin + view_.num_layers * view_.body_size;
    if (position_ < body_begin || position_ >= body_end) {
      return position_++;
    }
    const WeaveHalf& half = halves_[half_];
    const uint32_t round = body_begin + round_ * view_.body_size;
    const bool has_attention = attention_ < half.attention.size();
    const bool has_other = other_ < half.others.size();
    bool attend = has_attention;
    if (has_attention && has_other) {
      const bool attention_ready = ready(round + half.attention[attention_]);
      const bool other_ready = ready(round + half.others[other_]);
      attend = attention_ready && (!other_ready || streaming_ < streaming_sms_);
    }
    uint32_t index = 0;
    if (attend) {
      record(half);
      index = half.attention[attention_++];
      ++streaming_;
    } else {
      done_ += half.weights[other_];
      index = half.others[other_++];
    }
    ++position_;
    if (attention_ == half.attention.size() && other_ == half.others.size()) {
      half_ = 1 - half_;
      round_ += half_ == 0 ? 1 : 0;
      attention_ = 0;
      other_ = 0;
      done_ = 0;
    }
    return round + index;
  }

  void finished(uint32_t position) {
    const uint32_t begin = view_.prologue_size;
    if (position >= begin && position < begin + view_.num_layers * view_.body_size) {
      const Opcode opcode = place_of(view_, position).instruction->opcode;
      const bool attends = opcode == Opcode::kAttendDecode || opcode == Opcode::kAttendPrefill ||
                           opcode == Opcode::kAttendMerge;
      streaming_ -= attends && streaming_ > 0 ? 1 : 0;
    }
  }

  /// The curves of the recorded round.
  std::array<WeaveCurve, 2> curves() const {
    std::array<WeaveCurve, 2> curves{};
    for (uint32_t h = 0; h < 2; ++h) {
      const std::vector<double>& issued = issued_[h];
      for (uint32_t knot = 0; knot < curves[h].size(); ++knot) {
        const double place = static_cast<double>(knot) / static_cast<double>(curves[h].size() - 1);
        const auto before =
            std::count_if(issued.begin(), issued.end(), [place](double at) { return at <= place; });
        const double part =
            issued.empty() ? 1 : static_cast<double>(before) / static_cast<double>(issued.size());
        curves[h][knot] = static_cast<uint8_t>(100 * part + 0.5);
      }
    }
    return curves;
  }

 private:
  /// Where in the half's other work an attention instruction is issued.
  void record(const WeaveHalf& half) {
    if (round_ != kRecordedRound) {
      return;
    }
    double whole = 0;
    for (const double weight : half.weights) {
      whole += weight;
    }
    issued_[half_].push_back(whole > 0 ? done_ / whole : 0);
  }

  ProgramView view_;
  std::array<WeaveHalf, 2> halves_;
  uint32_t streaming_sms_;
  uint32_t position_ = 0;  // claims so far
  uint32_t round_ = 0;
  uint32_t half_ = 0;
  uint32_t attention_ = 0;
  uint32_t other_ = 0;
  uint32_t streaming_ = 0;  // attention under way
  double done_ = 0;         // weight of the other work that was issued
  std::array<std::vector<double>, 2> issued_;
};

class GreedyOrder : public ClaimOrder {
 public:
  GreedyOrder(const LoweredStep& woven, uint32_t split_block, uint32_t layers,
              uint32_t streaming_sms) {
    for (uint32_t gpu = 0; gpu < woven.gpus.size(); ++gpu) {
      ProgramView view = woven.view(gpu);
      view.num_layers = std::min(layers, view.num_layers);
      gpus_.emplace_back(view, weave_halves(woven.gpus[gpu], split_block), streaming_sms);
    }
  }
  uint32_t next(uint32_t gpu, Ready ready, const void* context) override {
    return gpus_[gpu].next([&](uint32_t position) { return ready(context, gpu, position); });
  }
  void finished(uint32_t gpu, uint32_t position) override { gpus_[gpu].finished(position); }
  std::array<WeaveCurve, 2> curves() const { return gpus_[0].curves(); }

 private:
  std::vector<GreedyGpu> gpus_;
};

/// A number to two or three binary digits: classes of steps an eighth apart.
uint32_t coarse(uint64_t value) {
  uint32_t shift = 0;
  while (value >= 16) {
    value >>= 1;
    ++shift;
  }
  return shift * 16 + static_cast<uint32_t>(value);
}

}  // namespace

WeavePlan greedy_plan(const StepRequest& request, const ModelShape& shape, const StepLimits& limits,
                      const LowerOptions& options, const CostModel& model, uint32_t split_block,
                      uint32_t streaming_sms) {
  LowerOptions woven = options;
  woven.weave = {split_block, {even_curve(90), even_curve(90)}};
  const LoweredStep step = lower(request, shape, limits, woven);
  const uint32_t layers = std::min(kRecordedLayers, shape.num_layers);
  GreedyOrder order(step, split_block, layers, streaming_sms);
  simulate(step, shape, model, {.num_sms = options.num_sms, .layers = layers, .order = &order});
  return {split_block, order.curves()};
}

WeavePlanner::WeavePlanner(const ModelShape& shape, const StepLimits& limits,
                           const LowerOptions& options, const CostModel& model)
    : shape_(shape), limits_(limits), options_(options), model_(model) {}

WeavePlanner::Key WeavePlanner::key_of(const StepRequest& request) {
  uint64_t prompt_rows = 0;
  uint64_t pages = 0;
  for (size_t s = 0; s < request.seq_lens.size(); ++s) {
    const auto rows = static_cast<uint32_t>(request.seq_lens[s]);
    prompt_rows += rows > 1 ? rows : 0;
    pages += ceil_div(static_cast<uint32_t>(request.context_lens[s]) + rows, kPageTokens);
  }
  return {ceil_div(static_cast<uint32_t>(request.token_ids.size()), kRowBlock),
          static_cast<uint32_t>(ceil_div<uint64_t>(prompt_rows, kRowBlock)), coarse(pages),
          coarse(request.logit_rows.size())};
}

StepEstimate WeavePlanner::time_of(const StepRequest& request, const WeavePlan& plan,
                                   double clock) const {
  LowerOptions options = options_;
  options.weave = plan;
  const LoweredStep step = lower(request, shape_, limits_, options);
  return clock == 0 ? estimate(step, shape_, model_, options.num_sms)
                    : estimate_at(step, shape_, model_, options.num_sms, clock);
}

PlannedOrder WeavePlanner::search(const StepRequest& request) const {
  PlannedOrder found;
  const StepEstimate plain = time_of(request, {});
  found.plain_ns = plain.step_ns;
  found.best_ns = found.plain_ns;
  const auto blocks = ceil_div(static_cast<uint32_t>(request.token_ids.size()), kRowBlock);
  if (blocks < 2 || shape_.num_layers < 2) {
    return found;
  }
  const auto attempt = [&](const WeavePlan& plan) {
    const double time_ns = time_of(request, plan, plain.clock).step_ns;
    if (time_ns * kLeastGain < found.plain_ns && time_ns < found.best_ns) {
      found.plan = plan;
      found.best_ns = time_ns;
    }
  };
  const uint32_t half = blocks / 2;
  for (const uint32_t percent : kEvenPercents) {
    attempt({half, {even_curve(percent), even_curve(percent)}});
  }
  for (const uint32_t part : kStreamingParts) {
    attempt(greedy_plan(request, shape_, limits_, options_, model_, half, options_.num_sms / part));
  }
  return found;
}

const PlannedOrder& WeavePlanner::plan(const StepRequest& request) {
  const Key key = key_of(request);
  const auto known = orders_.find(key);
  return known != orders_.end() ? known->second
                                : orders_.emplace(key, search(request)).first->second;
}

}  // namespace terrazzo
