// A small test harness: TERRAZZO_TEST defines a test, CHECK* record failures and go on.
#pragma once

#include <cmath>
#include <exception>
#include <sstream>
#include <string>
#include <string_view>

namespace terrazzo::testing {

using TestFunction = void (*)();

/// Called by TERRAZZO_TEST before main.
bool register_test(const char* name, TestFunction function);

/// Marks the running test as failed and prints the message.
void report_failure(const char* file, int line, const std::string& message);

template <class T>
std::string show(const T& value) {
  std::ostringstream out;
  if constexpr (requires { out << value; }) {
    out.precision(17);
    if constexpr (sizeof(T) == 1 && requires { static_cast<int>(value); }) {
      out << static_cast<int>(value);
    } else {
      out << value;
    }
  } else if constexpr (requires { static_cast<long long>(value); }) {
    out << static_cast<long long>(value);
  } else {
    out << "(value of " << sizeof(T) << " bytes)";
  }
  return out.str();
}

template <class A, class B>
void check_equal(const A& seen, const B& expected, const char* text, const char* file, int line) {
  if (!(seen == expected)) {
    report_failure(file, line,
                   std::string(text) + ": expected " + show(expected) + ", got " + show(seen));
  }
}

inline void check_near(double seen, double expected, double tolerance, const char* text,
                       const char* file, int line) {
  // Negated so that a NaN fails.
  if (!(std::abs(seen - expected) <= tolerance)) {
    report_failure(file, line,
                   std::string(text) + ": expected " + show(expected) + " within " +
                       show(tolerance) + ", got " + show(seen));
  }
}

/// Fails unless `body` throws an std::exception whose message contains `part`.
template <class Body>
void check_throws(Body&& body, std::string_view part, const char* text, const char* file,
                  int line) {
  try {
    body();
  } catch (const std::exception& error) {
    if (std::string_view(error.what()).find(part) == std::string_view::npos) {
      report_failure(file, line,
                     std::string(text) + ": expected a message with '" + std::string(part) +
                         "', got '" + error.what() + "'");
    }
    return;
  }
  report_failure(file, line, std::string(text) + ": expected an exception, got none");
}

}  // namespace terrazzo::testing

#define TERRAZZO_TEST(NAME)                              \
  static void NAME();                                    \
  [[maybe_unused]] static const bool NAME##_registered = \
      ::terrazzo::testing::register_test(#NAME, NAME);   \
  static void NAME()

#define CHECK(...)                                                         \
  ((__VA_ARGS__) ? void(0)                                                 \
                 : ::terrazzo::testing::report_failure(__FILE__, __LINE__, \
                                                       "CHECK(" #__VA_ARGS__ ") failed"))

#define CHECK_EQ(SEEN, EXPECTED) \
  ::terrazzo::testing::check_equal((SEEN), (EXPECTED), #SEEN, __FILE__, __LINE__)

#define CHECK_NEAR(SEEN, EXPECTED, TOLERANCE) \
  ::terrazzo::testing::check_near((SEEN), (EXPECTED), (TOLERANCE), #SEEN, __FILE__, __LINE__)

#define CHECK_THROWS(EXPRESSION, PART)                                                           \
  ::terrazzo::testing::check_throws([&] { static_cast<void>(EXPRESSION); }, (PART), #EXPRESSION, \
                                    __FILE__, __LINE__)
