// Host-side checks: they throw `terrazzo::Error` with the operation, the expected and the seen
// value.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace terrazzo {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Throws `Error` with the message "[op] part part ...".
template <class... Parts>
[[noreturn]] inline void fail(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << '[' << op << "] ";
  (message << ... << parts);
  throw Error(message.str());
}

/// `fail` unless `condition` holds. The parts are evaluated in any case: where they are dear, test
/// first.
template <class... Parts>
inline void check(bool condition, const char* op, const Parts&... parts) {
  if (!condition) [[unlikely]] {
    fail(op, parts...);
  }
}

}  // namespace terrazzo
