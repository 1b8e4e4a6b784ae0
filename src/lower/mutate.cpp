#include "lower/mutate.hpp"

#include <algorithm>
#include <iterator>
#include <random>
#include <vector>

#include "terrazzo/core/geometry.hpp"

namespace terrazzo {
namespace {

constexpr uint32_t kAttempts = 200;  // places tried for one mutation

class Mutator {
 public:
  Mutator(const LoweredStep& step, uint64_t seed) : random_(seed) { mutation_.step = step; }

  std::optional<Mutation> run() {
    mutation_.kind = static_cast<MutationKind>(below(kNumMutationKinds));
    for (uint32_t attempt = 0; attempt < kAttempts; ++attempt) {
      pick_place();
      if (list_->empty()) {
        continue;
      }
      const Opcode opcode = at().opcode;
      const uint32_t index = index_;
      if (apply()) {
        constexpr const char* kSegmentNames[kNumSegments] = {"prologue", "body", "epilogue"};
        mutation_.description = std::string(kMutationNames[static_cast<uint32_t>(mutation_.kind)]) +
                                ": gpu " + std::to_string(gpu_) + ", " + kSegmentNames[segment_] +
                                " " + std::to_string(index) + " (" + opcode_name(opcode) +
                                "): " + change_;
        return std::move(mutation_);
      }
    }
    return std::nullopt;
  }

 private:
  uint32_t below(uint64_t end) { return static_cast<uint32_t>(random_() % end); }
  /// Another value below `end`; `value` itself where there is none.
  uint32_t other(uint32_t value, uint32_t end) {
    return end < 2 ? value : (value + 1 + below(end - 1)) % end;
  }
  uint32_t num_gpus() const { return static_cast<uint32_t>(mutation_.step.gpus.size()); }
  Instruction& at() { return (*list_)[index_]; }
  std::string counter(int32_t relative) const {
    const int32_t block = static_cast<int32_t>(mutation_.step.counters.size());
    return mutation_.step.counters.name(
               static_cast<uint32_t>(relative < 0 ? relative + block : relative)) +
           (relative < 0 ? " of the layer before" : "");
  }

  void pick_place() {
    gpu_ = below(num_gpus());
    segment_ = below(kNumSegments);
    list_ = &mutation_.step.gpus[gpu_].segments[segment_];
    index_ = list_->empty() ? 0 : below(list_->size());
  }

  bool apply() {
    switch (mutation_.kind) {
      case MutationKind::kDropWait:
        return drop_wait();
      case MutationKind::kLowerTarget:
        return lower_target();
      case MutationKind::kDropSignal:
        return drop_signal();
      case MutationKind::kDoubleSignal:
        return double_signal();
      case MutationKind::kMoveUp:
        return move_up();
      case MutationKind::kMoveOutput:
        return move_output();
      case MutationKind::kMisdirect:
        return misdirect();
      case MutationKind::kCount:
        break;
    }
    return false;
  }

  bool drop_wait() {
    Wait& wait = at().waits[below(kNumWaits)];
    if (wait.count == 0) {
      return false;
    }
    change_ = counter(wait.first) + (wait.count > 1 ? " and following" : "");
    wait = {};
    return true;
  }

  bool lower_target() {
    Wait& wait = at().waits[below(kNumWaits)];
    if (wait.count == 0) {
      return false;
    }
    const uint32_t target = below(wait.target);
    change_ = counter(wait.first) + " from " + std::to_string(wait.target) + " to " +
              std::to_string(target);
    wait.target = target;
    return true;
  }

  bool drop_signal() {
    Signal& signal = at().signals[below(kNumSignals)];
    if (signal.count == 0) {
      return false;
    }
    change_ = counter(signal.first);
    const uint32_t gpu = below(num_gpus());
    const auto rest = static_cast<uint8_t>(signal.gpus & ~(1u << gpu));
    if (rest == signal.gpus || rest == 0 || below(2) == 0) {
      signal = {};
      change_ += " on all GPUs";
    } else {
      signal.gpus = rest;
      change_ += " on gpu " + std::to_string(gpu);
    }
    return true;
  }

  bool double_signal() {
    Signal& signal = at().signals[below(kNumSignals)];
    if (signal.count == 0 || signal.increment > UINT8_MAX / 2) {
      return false;
    }
    change_ = counter(signal.first);
    signal.increment = static_cast<uint8_t>(2 * signal.increment);
    return true;
  }

  bool misdirect() {
    Signal& signal = at().signals[below(kNumSignals)];
    const bool one_gpu = (signal.gpus & (signal.gpus - 1)) == 0;
    if (signal.count == 0 || !one_gpu || num_gpus() < 2) {
      return false;
    }
    uint32_t gpu = 0;
    while ((signal.gpus >> gpu & 1) == 0) {
      ++gpu;
    }
    const uint32_t wrong = other(gpu, num_gpus());
    signal.gpus = static_cast<uint8_t>(1u << wrong);
    change_ = counter(signal.first) + " to gpu " + std::to_string(wrong) + " instead of " +
              std::to_string(gpu);
    return true;
  }

  bool signals_what(const Instruction& producer, const Wait& wait) const {
    return std::any_of(producer.signals, producer.signals + kNumSignals, [&](const Signal& signal) {
      return signal.count > 0 && (signal.gpus >> gpu_ & 1) != 0 &&
             signal.first < wait.first + wait.count && wait.first < signal.first + signal.count;
    });
  }

  bool move_up() {
    const Instruction moved = at();
    for (uint32_t i = 0; i < index_; ++i) {
      for (const Wait& wait : moved.waits) {
        if (wait.count > 0 && signals_what((*list_)[i], wait)) {
          std::rotate(list_->begin() + i, list_->begin() + index_, list_->begin() + index_ + 1);
          change_ = "to " + std::to_string(i) + ", before its producer";
          return true;
        }
      }
    }
    return false;
  }

  /// Another instruction of the same opcode tells which places exist.
  bool move_output() {
    const Instruction& donor = (*list_)[below(list_->size())];
    Instruction& target = at();
    if (donor.opcode != target.opcode || donor.flags != target.flags) {
      return false;
    }
    const Operands before = target.args;
    switch (target.opcode) {
      case Opcode::kEmbed:
        target.args.embed.row_block = donor.args.embed.row_block;
        break;
      case Opcode::kAttendPrefill:
        target.args.attend_prefill.q_head = donor.args.attend_prefill.q_head;
        target.args.attend_prefill.kv_head = donor.args.attend_prefill.kv_head;
        break;
      case Opcode::kAttendDecode:
        if ((target.flags & kPartial) != 0) {
          target.args.attend_decode.partial_slot = donor.args.attend_decode.partial_slot;
        } else {
          target.args.attend_decode.kv_head = donor.args.attend_decode.kv_head;
        }
        break;
      case Opcode::kAttendMerge:
        target.args.attend_merge.kv_head = donor.args.attend_merge.kv_head;
        break;
      case Opcode::kReduceResidual:
      case Opcode::kReduceO:
        target.args.reduce.first_panel = donor.args.reduce.first_panel;
        break;
      case Opcode::kGatherNorm:
        target.args.gather.compact_block = donor.args.gather.compact_block;
        break;
      case Opcode::kSample:
        target.args.sample.compact_row = donor.args.sample.compact_row;
        break;
      case Opcode::kStepEnd:
        return false;
      default:
        if (below(2) == 0) {
          target.args.gemm.row_block = donor.args.gemm.row_block;
        } else {
          target.args.gemm.first_panel = donor.args.gemm.first_panel;
        }
    }
    change_ = "words";
    bool changed = false;
    for (uint32_t i = 0; i < std::size(before.words); ++i) {
      if (before.words[i] != target.args.words[i]) {
        changed = true;
        change_ += " " + std::to_string(i) + ": " + std::to_string(before.words[i]) + " to " +
                   std::to_string(target.args.words[i]);
      }
    }
    return changed;
  }

  std::mt19937_64 random_;
  Mutation mutation_;
  uint32_t gpu_ = 0;
  uint32_t segment_ = 0;
  uint32_t index_ = 0;
  std::vector<Instruction>* list_ = nullptr;
  std::string change_;
};

}  // namespace

std::optional<Mutation> mutate(const LoweredStep& step, uint64_t seed) {
  return Mutator(step, seed).run();
}

}  // namespace terrazzo
