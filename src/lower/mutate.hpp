// Seeded harmful changes to a program, to test those that should notice: verifier and host machine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "lower/lowered_step.hpp"

namespace terrazzo {

enum class MutationKind : uint32_t {
  kDropWait,
  kLowerTarget,
  kDropSignal,  // on all GPUs, or on one of them
  kDoubleSignal,
  kMoveUp,      // an instruction to before its first producer in the same queue
  kMoveOutput,  // operands of another place: the output lands on a region in use
  kMisdirect,   // a signal to another GPU instead
  kCount
};
inline constexpr uint32_t kNumMutationKinds = static_cast<uint32_t>(MutationKind::kCount);

inline constexpr const char* kMutationNames[kNumMutationKinds] = {
    "drop wait", "lower target", "drop signal", "double signal",
    "move up",   "move output",  "misdirect"};

struct Mutation {
  LoweredStep step;
  MutationKind kind;
  std::string description;
};

/// The same seed always gives the same mutation. Nothing where the step has no place for the kind
/// of change that the seed picks (such as a misdirected signal with one GPU).
std::optional<Mutation> mutate(const LoweredStep& step, uint64_t seed);

}  // namespace terrazzo
