// main() of every C++ test: runs all tests, or those whose name contains the first argument.
#include <cstdio>
#include <string_view>
#include <vector>

#include "check.hpp"

namespace terrazzo::testing {
namespace {

struct Test {
  const char* name;
  TestFunction function;
};

std::vector<Test>& tests() {
  static std::vector<Test> list;
  return list;
}

// A test may fail thousands of checks; the first ones tell the story.
constexpr int kMaxShownFailures = 20;
int num_failures_of_test = 0;

}  // namespace

bool register_test(const char* name, TestFunction function) {
  tests().push_back({name, function});
  return true;
}

void report_failure(const char* file, int line, const std::string& message) {
  if (++num_failures_of_test <= kMaxShownFailures) {
    std::printf("%s:%d: %s\n", file, line, message.c_str());
  }
}

static int run(std::string_view filter) {
  int num_passed = 0;
  int num_failed = 0;
  for (const Test& test : tests()) {
    if (std::string_view(test.name).find(filter) == std::string_view::npos) {
      continue;
    }
    num_failures_of_test = 0;
    try {
      test.function();
    } catch (const std::exception& error) {
      report_failure(test.name, 0, std::string("unexpected exception: ") + error.what());
    }
    const bool passed = num_failures_of_test == 0;
    std::printf("%s %s\n", passed ? "ok  " : "FAIL", test.name);
    std::fflush(stdout);
    (passed ? num_passed : num_failed) += 1;
  }
  std::printf("%d passed, %d failed\n", num_passed, num_failed);
  return num_failed == 0 && num_passed > 0 ? 0 : 1;
}

}  // namespace terrazzo::testing

int main(int argc, char** argv) { return terrazzo::testing::run(argc > 1 ? argv[1] : ""); }
