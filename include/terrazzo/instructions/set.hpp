// Opcode -> operation, for the interpreter.
#pragma once

#include "terrazzo/instructions/attend_decode.hpp"
#include "terrazzo/instructions/attend_merge.hpp"
#include "terrazzo/instructions/attend_prefill.hpp"
#include "terrazzo/instructions/embed.hpp"
#include "terrazzo/instructions/gather_norm.hpp"
#include "terrazzo/instructions/gemm.hpp"
#include "terrazzo/instructions/lm_head.hpp"
#include "terrazzo/instructions/projections.hpp"
#include "terrazzo/instructions/qkv_rope_append.hpp"
#include "terrazzo/instructions/sample.hpp"
#include "terrazzo/instructions/step_end.hpp"

namespace terrazzo {

struct LlamaInstructions {
  /// Calls f with an object of the operation's type, `Gemm` for all products.
  template <class F>
  static TERRAZZO_GROUP_FN void dispatch(Opcode opcode, F f) {
    switch (opcode) {
      case Opcode::kStepEnd:
        return f(StepEnd{});
      case Opcode::kEmbed:
        return f(Embed{});
      case Opcode::kAttendPrefill:
        return f(AttendPrefill{});
      case Opcode::kAttendDecode:
        return f(AttendDecode{});
      case Opcode::kAttendMerge:
        return f(AttendMerge{});
      case Opcode::kReduceResidual:
      case Opcode::kReduceO:
        return f(ReducePartials{});
      case Opcode::kGatherNorm:
        return f(GatherNorm{});
      case Opcode::kSample:
        return f(Sample{});
      default:
        return f(Gemm{});
    }
  }

  /// The same for storers: each product stores what is its own.
  template <class F>
  static TERRAZZO_GROUP_FN void dispatch_storer(Opcode opcode, F f) {
    switch (opcode) {
      case Opcode::kStepEnd:
        return f(StepEnd{});
      case Opcode::kEmbed:
        return f(Embed{});
      case Opcode::kQkvRopeAppend:
        return f(QkvRopeAppend{});
      case Opcode::kAttendPrefill:
        return f(AttendPrefill{});
      case Opcode::kAttendDecode:
        return f(AttendDecode{});
      case Opcode::kAttendMerge:
        return f(AttendMerge{});
      case Opcode::kOProjResidual:
        return f(OProjResidual{});
      case Opcode::kGateUpSilu:
        return f(GateUpSilu{});
      case Opcode::kDownResidual:
        return f(DownResidual{});
      case Opcode::kDownPartial:
      case Opcode::kOPartial:
        return f(ProjectPartial{});
      case Opcode::kReduceResidual:
      case Opcode::kReduceO:
        return f(ReducePartials{});
      case Opcode::kGatherNorm:
        return f(GatherNorm{});
      case Opcode::kLmHead:
        return f(LmHead{});
      case Opcode::kSample:
        return f(Sample{});
    }
  }
};

}  // namespace terrazzo
