// One SM's ring as a fluid: slots flow in from the loader and out to the consumers.
#pragma once

#include <algorithm>
#include <limits>

#include "terrazzo/vm/loader.hpp"

namespace terrazzo {

inline constexpr double kNever = std::numeric_limits<double>::infinity();

/// How much of its full rate a shared resource grants to each user.
struct Shares {
  double hbm = 1;
  double l2 = 1;
  double tensor = 1;
};

/// What is drawn from the shared resources: bytes and FLOPs a nanosecond.
struct Usage {
  double hbm = 0;
  double fill = 0;  // the part of it that stays in L2
  double l2 = 0;
  double tensor = 0;

  Usage& operator+=(const Usage& other) {
    hbm += other.hbm;
    fill += other.fill;
    l2 += other.l2;
    tensor += other.tensor;
    return *this;
  }
  Usage& operator-=(const Usage& other) {
    hbm -= other.hbm;
    fill -= other.fill;
    l2 -= other.l2;
    tensor -= other.tensor;
    return *this;
  }
};

/// The loader fills up to `ring` slots ahead of the consumers; these take what has landed. Between
/// two calls of `retune` all rates are constant.
class SmFlow {
 public:
  static constexpr double kEpsilon = 1e-6;  // slots

  /// Slots of one instruction that the loader copies from now on. `l2_bytes`: of L2's rate that
  /// they take.
  void start_load(double slots, double slot_ns, double bytes, double hbm_bytes, double fill_bytes,
                  double l2_bytes) {
    loading_ = true;
    load_left_ = slots;
    slot_ns_ = slot_ns;
    l2_per_slot_ = l2_bytes / slots;
    hbm_per_slot_ = hbm_bytes / slots;
    fill_per_slot_ = fill_bytes / slots;
    hbm_share_ = bytes > 0 ? hbm_bytes / bytes : 0;
  }
  void end_load() { loading_ = false; }
  void finish_load() { load_left_ = 0; }

  /// Slots of one instruction that the consumers take from now on. `landed`: all are in the ring.
  void start_stream(double slots, double tensor_ns, double other_ns, double flops, bool landed) {
    streaming_ = true;
    landed_ = landed;
    use_left_ = slots;
    tensor_slot_ns_ = tensor_ns / slots;
    other_slot_ns_ = other_ns / slots;
    flops_per_slot_ = flops / slots;
  }
  void end_stream() { streaming_ = false; }
  /// The loader has finished the instruction that the consumers stream.
  void set_landed() { landed_ = true; }

  bool loading() const { return loading_; }
  bool streaming() const { return streaming_; }
  bool load_done() const { return loading_ && load_left_ <= kEpsilon; }
  bool stream_done() const { return streaming_ && use_left_ <= kEpsilon; }
  bool claim_due() const { return !loading_ || load_left_ <= kClaimAheadSlots + kEpsilon; }
  double load_waited_ns() const { return load_waited_ns_; }
  double stream_waited_ns() const { return stream_waited_ns_; }
  const Usage& usage() const { return usage_; }

  /// Moves on to `now` at the current rates.
  void settle(double now, double ring) {
    const double passed = now - at_;
    at_ = now;
    if (passed <= 0) {
      return;
    }
    const double landed = std::min(passed * load_rate_, load_left_);
    double used = std::min(passed * use_rate_, use_left_);
    if (!landed_) {
      used = std::min(used, held_ + landed);
    }
    load_left_ -= landed;
    use_left_ -= used;
    held_ += landed - used;
    held_ = held_ < kEpsilon ? 0.0 : held_ > ring - kEpsilon ? ring : held_;
    load_waited_ns_ += passed * load_waits_;
    stream_waited_ns_ += passed * stream_waits_;
  }

  /// Rates under these shares, from the time of the last `settle` on.
  void retune(const Shares& shares, double ring) {
    double load = 0;
    double use = 0;
    if (loading_) {
      const double slowed = slot_ns_ * (1 - hbm_share_ + hbm_share_ / shares.hbm) / shares.l2;
      load = 1 / std::max(slowed, kShortestNs);
    }
    if (streaming_) {
      use = 1 / std::max(tensor_slot_ns_ / shares.tensor + other_slot_ns_, kShortestNs);
    }
    const double able_to_use = use;
    if (streaming_ && !landed_ && held_ == 0) {
      use = std::min(use, load);
    }
    if (loading_ && held_ >= ring) {
      load = std::min(load, use);
    }
    load_rate_ = load;
    use_rate_ = use;
    load_waits_ = loading_ ? 1 - load * slot_ns_ : 0;
    stream_waits_ = streaming_ ? 1 - use / able_to_use : 0;
    usage_ = {load * hbm_per_slot_, load * fill_per_slot_, load * l2_per_slot_,
              use * flops_per_slot_};
  }

  /// When, at these rates, the next thing happens.
  double next(double ring, bool claimed) const {
    double soonest = kNever;
    if (load_rate_ > 0) {
      soonest = load_left_ / load_rate_;
      if (!claimed && load_left_ > kClaimAheadSlots + kEpsilon) {
        soonest = (load_left_ - kClaimAheadSlots) / load_rate_;
      }
    }
    if (use_rate_ > 0) {
      soonest = std::min(soonest, use_left_ / use_rate_);
    }
    const double net = load_rate_ - use_rate_;
    if (net > 0 && held_ < ring) {
      soonest = std::min(soonest, (ring - held_) / net);
    } else if (net < 0 && held_ > 0 && !landed_) {
      soonest = std::min(soonest, held_ / -net);
    }
    return at_ + std::max(soonest, kShortestNs);
  }

 private:
  // Of a slot, and between two events: no rate is infinite, and time goes on although it is
  // rounded.
  static constexpr double kShortestNs = 1e-3;

  double at_ = 0;
  double held_ = 0;  // slots that have landed and are not given back
  bool loading_ = false;
  bool streaming_ = false;
  bool landed_ = false;
  double load_left_ = 0;
  double use_left_ = 0;
  double slot_ns_ = 0;
  double l2_per_slot_ = 0;
  double hbm_per_slot_ = 0;
  double fill_per_slot_ = 0;
  double hbm_share_ = 0;
  double tensor_slot_ns_ = 0;
  double other_slot_ns_ = 0;
  double flops_per_slot_ = 0;
  double load_rate_ = 0;
  double use_rate_ = 0;
  double load_waits_ = 0;    // part of the time that the loader could have gone faster
  double stream_waits_ = 0;  // the same of the consumers
  double load_waited_ns_ = 0;
  double stream_waited_ns_ = 0;
  Usage usage_;
};

}  // namespace terrazzo
