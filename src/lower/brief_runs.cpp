#include "lower/brief_runs.hpp"

namespace terrazzo {

void mark_brief_runs(LoweredStep& step) {
  for (GpuProgram& program : step.gpus) {
    for (auto& segment : program.segments) {
      uint32_t following = 0;
      for (auto at = segment.rbegin(); at != segment.rend(); ++at) {
        following = is_brief(at->opcode) ? following + 1 : 0;
        if (following > kBriefRunLength) {
          at->flags |= kBriefRun;
        }
      }
    }
  }
}

}  // namespace terrazzo
