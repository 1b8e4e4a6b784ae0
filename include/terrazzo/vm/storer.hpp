// A storer's view of an instruction: stages to memory, then the signals.
#pragma once

#include <cstddef>
#include <cstdint>

#include "terrazzo/core/roles.hpp"
#include "terrazzo/vm/params.hpp"
#include "terrazzo/vm/ring.hpp"

namespace terrazzo {

template <class M>
class Storer {
 public:
  using Role = typename M::Role;
  using Stage = typename M::Stage;

  TERRAZZO_GROUP_FN Storer(Role& role, const StepParams& params, uint32_t index)
      : params(params), role_(role), index_(index) {}

  const StepParams& params;

  TERRAZZO_GROUP_FN const Instruction& instruction() const { return *instruction_; }
  TERRAZZO_GROUP_FN uint32_t layer() const { return static_cast<uint32_t>(layer_); }
  TERRAZZO_GROUP_FN uint32_t index() const { return index_; }

  /// The next stage, once its consumer has published it.
  TERRAZZO_GROUP_FN Stage take() {
    if (pending_) {
      role_.wait_stores_read();
      give_back();
    }
    auto& full = role_.shared().stage_full[index_][stage_cursor_.index];
    role_.wait(full, stage_cursor_.phase, WaitKind::kStageFull, stage_cursor_.index);
    has_stored_ = true;
    return M::stage(role_, index_, stage_cursor_.index);
  }

  /// Bytes [offset, offset + bytes) of the stage's tile to `target`.
  TERRAZZO_GROUP_FN void store(std::byte* target, Stage stage, uint32_t offset, uint32_t bytes) {
    if (M::is_elected(role_)) {
      store_from_lane(target, stage, offset, bytes);
    }
  }

  /// Calls f(i) for i < count, spread over the lanes of the warp.
  template <class F>
  TERRAZZO_GROUP_FN void for_each_lane(uint32_t count, F f) {
    M::for_each_lane(role_, count, f);
  }

  /// The same within `for_each_lane`: each lane issues its own.
  TERRAZZO_GROUP_FN void store_from_lane(std::byte* target, Stage stage, uint32_t offset,
                                         uint32_t bytes) {
    M::store(role_, index_, stage, target, stage.tile + offset, bytes);
  }

  /// `count` 128-byte rows of the stage from row `first`, each to `target_of(row)`. Rows whose
  /// targets follow each other travel together.
  template <class TargetOf>
  TERRAZZO_GROUP_FN void scatter_rows(Stage stage, uint32_t first, uint32_t count,
                                      TargetOf target_of) {
    M::for_each_run(
        role_, count, kRowBytes, [&](uint32_t i) TERRAZZO_LAMBDA { return target_of(first + i); },
        [&](uint32_t i, uint32_t length, std::byte* target) TERRAZZO_LAMBDA {
          store_from_lane(target, stage, (first + i) * kRowBytes, length * kRowBytes);
        });
  }

  /// The same for the first `count` rows of the next stage, which it takes; the targets are looked
  /// up before the stage is waited for.
  template <class TargetOf>
  TERRAZZO_GROUP_FN Stage scatter_next(uint32_t count, TargetOf target_of) {
    Stage stage{};
    M::for_each_run(
        role_, count, kRowBytes, target_of,
        [&](uint32_t i, uint32_t length, std::byte* target)
            TERRAZZO_LAMBDA { store_from_lane(target, stage, i * kRowBytes, length * kRowBytes); },
        [&](uint32_t first) TERRAZZO_LAMBDA {
          if (first == 0) {
            stage = take();
          }
        });
    return stage;
  }

  /// `count` values of the stage's vector from `first`.
  TERRAZZO_GROUP_FN void store_vector(float* target, Stage stage, uint32_t first, uint32_t count) {
    if (M::is_elected(role_)) {
      M::store(role_, index_, stage, reinterpret_cast<std::byte*>(target),
               M::vector_bytes(stage, first), static_cast<uint32_t>(count * sizeof(float)));
    }
  }

  /// The stage is to be given back once its bytes were read, in the next `take` or behind the
  /// signals; its consumer waits.
  TERRAZZO_GROUP_FN void release(Stage stage) {
    pending_ = true;
    pending_stage_ = stage.index;
    stage_cursor_.advance();
  }

  // --- for the interpreter ---

  TERRAZZO_GROUP_FN void begin(const Instruction& instruction, int32_t layer) {
    instruction_ = &instruction;
    layer_ = layer;
    has_stored_ = false;
  }

  /// Waits until all stores are complete, then adds this storer's share to the counters.
  TERRAZZO_GROUP_FN void finish() {
    if (has_stored_) {
      role_.wait_stores_written();
    }
    signal();
    if (pending_) {
      give_back();
    }
  }

  /// End of the step (one storer of one SM a GPU): tells every GPU.
  TERRAZZO_GROUP_FN void signal_end() {
    role_.wait_stores_written();
    for (uint32_t gpu = 0; gpu < params.shape.world; ++gpu) {
      role_.release_add(params.counters(gpu) + BankLayout::kEnd, 1);
    }
  }

 private:
  TERRAZZO_GROUP_FN void signal() {
    uint32_t counters = 0;
    for (const Signal& signal : instruction_->signals) {
      counters += signal.count;
    }
    if (counters == 0) {
      return;
    }
    for (uint32_t s = 0; s < kNumSignals; ++s) {
      const Signal& signal = instruction_->signals[s];
      if (signal.count == 0) {
        continue;
      }
      const uint32_t first = BankLayout::kBlocks +
                             counter_index(params.program.counters_per_block, layer_, signal.first);
      for (uint32_t gpu = 0; gpu < params.shape.world; ++gpu) {
        if ((signal.gpus >> gpu & 1u) != 0) {
          for (uint32_t i = 0; i < signal.count; ++i) {
            role_.release_add(params.counters(gpu) + first + i, signal.increment);
          }
        }
      }
    }
  }

  TERRAZZO_GROUP_FN void give_back() {
    role_.arrive(role_.shared().stage_empty[index_][pending_stage_], WaitKind::kStageEmpty,
                 pending_stage_);
    pending_ = false;
  }

  Role& role_;
  uint32_t index_;
  const Instruction* instruction_ = nullptr;
  int32_t layer_ = 0;
  bool has_stored_ = false;  // in this instruction
  StageCursor stage_cursor_;
  bool pending_ = false;  // a stage that was released and not yet given back
  uint32_t pending_stage_ = 0;
};

}  // namespace terrazzo
