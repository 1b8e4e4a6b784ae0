// Optional record of what each role did when.
#pragma once

#include <cstdint>

#include "terrazzo/core/trace_event.hpp"
#include "terrazzo/vm/params.hpp"

namespace terrazzo {

/// Records the time between its construction and its end, if the launch asks for a trace.
template <class M>
class TraceScope {
 public:
  template <class InstructionSlot>
  TERRAZZO_GROUP_FN TraceScope(typename M::Role& role, const StepParams& params,
                               const InstructionSlot& slot)
      : role_(role), enabled_(params.trace != 0) {
    if (enabled_) {
      event_ = {M::now_ns(),
                0,
                role.waited_ns(),
                slot.position,
                slot.layer,
                static_cast<uint16_t>(role.sm()),
                static_cast<uint8_t>(role.gpu()),
                role.kind(),
                slot.instruction.opcode,
                0};
    }
  }
  TraceScope(const TraceScope&) = delete;
  TraceScope& operator=(const TraceScope&) = delete;

  TERRAZZO_GROUP_FN ~TraceScope() {
    if (enabled_) {
      event_.end_ns = M::now_ns();
      event_.waited_ns = role_.waited_ns() - event_.waited_ns;
      role_.record(event_);
    }
  }

 private:
  typename M::Role& role_;
  bool enabled_;
  TraceEvent event_{};
};

}  // namespace terrazzo
