// The roles of an SM and what they can wait for, as every machine and every diagnosis names them.
#pragma once

#include <cstdint>

namespace terrazzo {

enum class RoleKind : uint8_t { kController, kLoader, kConsumer0, kConsumer1, kStorer0, kStorer1 };
inline constexpr uint32_t kNumRoles = 6;
inline constexpr const char* kRoleNames[kNumRoles] = {"controller", "loader",   "consumer 0",
                                                      "consumer 1", "storer 0", "storer 1"};

enum class WaitKind : uint8_t {
  kNone,
  kInstruction,      // the controller's next instruction
  kInstructionFree,  // a free place in the instruction ring
  kClaim,            // the loader's word that it is nearly done
  kSlotFull,
  kSlotEmpty,
  kStageFull,
  kStageEmpty,
  kCounter,
  kEnd,  // the other GPUs' end of step
};
inline constexpr const char* kWaitNames[] = {"nothing",
                                             "an instruction",
                                             "a free place in the instruction ring",
                                             "the loader's claim signal",
                                             "a full slot",
                                             "an empty slot",
                                             "a full stage",
                                             "an empty stage",
                                             "a counter",
                                             "the end of the step"};

}  // namespace terrazzo
