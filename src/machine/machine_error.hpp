// What a machine throws when a launch fails, as against a request that it refuses.
#pragma once

#include "terrazzo/core/check.hpp"

namespace terrazzo {

/// The machine failed: a launch that did not come to its end, or a device's own error.
class MachineError : public Error {
 public:
  using Error::Error;
};

}  // namespace terrazzo
