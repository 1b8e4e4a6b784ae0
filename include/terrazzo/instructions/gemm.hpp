// What loaders and consumers do for all GEMM instructions: one main loop, then what the opcode's
// epilogue needs.
//
// One operation for all of them, so that the kernel holds the main loops once.
#pragma once

#include "terrazzo/instructions/lm_head.hpp"
#include "terrazzo/instructions/projections.hpp"
#include "terrazzo/instructions/qkv_rope_append.hpp"

namespace terrazzo {

struct Gemm {
  static constexpr bool kHasProducts = true;

  static constexpr TERRAZZO_GROUP_FN bool uses_row_factors(Opcode opcode) {
    return opcode == Opcode::kQkvRopeAppend || opcode == Opcode::kGateUpSilu;
  }
  static constexpr TERRAZZO_GROUP_FN bool adds_residual(Opcode opcode) {
    return opcode == Opcode::kOProjResidual || opcode == Opcode::kDownResidual;
  }

  static constexpr TERRAZZO_GROUP_FN SlotPlan slots(const Instruction& instruction,
                                                    const StepParams& params) {
    const Opcode opcode = instruction.opcode;
    return GemmStream(instruction)
        .slots(uses_row_factors(opcode) ? line_slots(params.shape)
               : adds_residual(opcode)  ? instruction.args.gemm.panels
                                        : 0);
  }

  static TERRAZZO_GROUP_FN GemmInput input(Opcode opcode, const StepParams& params,
                                           const GemmArgs& args, uint32_t layer) {
    switch (opcode) {
      case Opcode::kQkvRopeAppend:
        return QkvRopeAppend::input(params, args, layer);
      case Opcode::kOProjResidual:
        return OProjResidual::input(params, args, layer);
      case Opcode::kGateUpSilu:
        return GateUpSilu::input(params, args, layer);
      case Opcode::kDownResidual:
        return DownResidual::input(params, args, layer);
      case Opcode::kDownPartial:
        return ProjectPartial::input(Matrix::kDown, params, args, layer);
      case Opcode::kOPartial:
        return ProjectPartial::input(Matrix::kO, params, args, layer);
      default:
        return LmHead::input(params, args, layer);
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void load(Loader<M>& loader) {
    const Opcode opcode = loader.instruction().opcode;
    const GemmArgs& args = loader.instruction().args.gemm;
    const GemmInput what = input(opcode, loader.params, args, loader.layer());
    load_products(loader, what);
    if (uses_row_factors(opcode)) {
      load_lines(loader, what.beside, args.row_block, args.rows);
    } else if (adds_residual(opcode)) {
      load_residuals(loader, what.beside, args);
    }
  }

  template <class M>
  static TERRAZZO_GROUP_FN void consume(Consumer<M>& consumer) {
    const Opcode opcode = consumer.instruction().opcode;
    auto factors = consumer.row_vector();
    consume_gemm(
        consumer,
        [&](auto& acc, RowSpan span) TERRAZZO_LAMBDA {
          switch (opcode) {
            case Opcode::kQkvRopeAppend:
              return QkvRopeAppend::finish(consumer, acc, span, factors);
            case Opcode::kGateUpSilu:
              return GateUpSilu::finish(consumer, acc, span, factors);
            case Opcode::kDownPartial:
            case Opcode::kOPartial:
              return ProjectPartial::finish(consumer, acc, span);
            case Opcode::kLmHead:
              return LmHead::finish(consumer, acc, span);
            default:
              return OProjResidual::finish(consumer, acc, span);
          }
        },
        [&]() TERRAZZO_LAMBDA {
          if (uses_row_factors(opcode)) {
            use_row_factors(factors, consumer);
          }
        });
  }
};

}  // namespace terrazzo
