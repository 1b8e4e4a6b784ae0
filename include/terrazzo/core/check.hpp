// Host-side checks: they throw `terrazzo::Error` with the operation, the expected and the seen value.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace terrazzo {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws `Error` with the message "[op] part part ..." unless `condition` holds.
template <class... Parts>
inline void check(bool condition, const char* op, const Parts&... parts) {
  if (condition) [[likely]] {
    return;
  }
  std::ostringstream message;
  message << '[' << op << "] ";
  (message << ... << parts);
  throw Error(message.str());
}

}  // namespace terrazzo
