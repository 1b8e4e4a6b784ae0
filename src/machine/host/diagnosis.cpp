#include "machine/host/diagnosis.hpp"

#include <sstream>

#include "terrazzo/core/program.hpp"

namespace terrazzo::host {
namespace {

constexpr uint32_t kMostLines = 24;      // blocked roles told in full
constexpr uint32_t kMostSignallers = 4;  // of a counter

/// Queue positions of instructions whose signals reach counter `index` of GPU `gpu`.
void tell_signallers(std::ostream& out, const LoweredStep& step, uint32_t gpu, uint32_t index) {
  const int32_t per_block = static_cast<int32_t>(step.counters_per_block());
  const int32_t counter = static_cast<int32_t>(index - BankLayout::kBlocks);
  uint32_t told = 0;
  uint32_t total = 0;
  for (uint32_t from = 0; from < step.gpus.size(); ++from) {
    const ProgramView program = step.view(from);
    for (uint32_t position = 0; position < program.queue_size(); ++position) {
      const QueuePlace place = place_of(program, position);
      if (place.skip) {
        continue;
      }
      for (const Signal& signal : place.instruction->signals) {
        const int32_t first = (place.layer + 1) * per_block + signal.first;
        if ((signal.gpus >> gpu & 1u) == 0 || counter < first || counter >= first + signal.count) {
          continue;
        }
        if (told < kMostSignallers) {
          out << (told == 0 ? "; signalled by " : ", ") << "gpu " << from << ' '
              << opcode_name(place.instruction->opcode) << " at position " << position;
          ++told;
        }
        ++total;
      }
    }
  }
  if (total == 0) {
    out << "; no instruction signals it";
  } else if (total > told) {
    out << " and " << total - told << " more";
  }
}

/// Counters come in blocks: one for the prologue, one a layer, one for the epilogue.
std::string block_name(uint32_t block, uint32_t num_layers) {
  return block == 0           ? "the prologue"
         : block > num_layers ? "the epilogue"
                              : "layer " + std::to_string(block - 1);
}

void tell(std::ostream& out, const BlockedRole& role, const LoweredStep& step) {
  out << "\n  gpu " << role.gpu << " sm " << role.sm << ' '
      << kRoleNames[static_cast<uint32_t>(role.role)];
  if (role.has_instruction) {
    out << " in " << opcode_name(role.instruction.opcode) << " (layer " << role.layer
        << ", position " << role.position << ')';
  }
  out << " waits for " << kWaitNames[static_cast<uint32_t>(role.wait.kind)];
  if (role.wait.kind == WaitKind::kCounter) {
    const uint32_t in_blocks = role.wait.index - BankLayout::kBlocks;
    const uint32_t block = in_blocks / step.counters_per_block();
    out << ", " << step.counters.name(in_blocks % step.counters_per_block()) << " of "
        << block_name(block, step.num_layers) << ": seen " << role.wait.seen << ", wanted "
        << role.wait.wanted;
    tell_signallers(out, step, role.gpu, role.wait.index);
  } else if (role.wait.kind == WaitKind::kEnd) {
    out << ": seen " << role.wait.seen << ", wanted " << role.wait.wanted;
  } else {
    out << ' ' << role.wait.index;
  }
}

}  // namespace

std::string diagnosis(const Launch& launch, const LoweredStep& step) {
  std::ostringstream out;
  switch (launch.kind()) {
    case FailureKind::kDeadlock:
      out << "[deadlock] ";
      break;
    case FailureKind::kWatchdog:
      out << "[watchdog] ";
      break;
    default:
      break;
  }
  out << launch.message();
  if (launch.kind() == FailureKind::kCheck) {
    return out.str();
  }
  // Roles that wait for counters are the causes; the others wait for them.
  uint32_t lines = 0;
  for (const bool counters : {true, false}) {
    for (const BlockedRole& role : launch.blocked()) {
      if ((role.wait.kind == WaitKind::kCounter) == counters && lines++ < kMostLines) {
        tell(out, role, step);
      }
    }
  }
  if (lines > kMostLines) {
    out << "\n  and " << lines - kMostLines << " more roles";
  }
  return out.str();
}

}  // namespace terrazzo::host
