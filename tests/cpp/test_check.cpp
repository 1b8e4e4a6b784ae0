// The harness itself, and the build flags that results depend on.
#include "check.hpp"

#include <stdexcept>

#include "machine/cuda/cuda.hpp"
#include "terrazzo/version.hpp"

namespace {

TERRAZZO_TEST(version_macros_match_constants) {
  CHECK_EQ(terrazzo::kVersionMajor, TERRAZZO_VERSION_MAJOR);
  CHECK_EQ(terrazzo::kVersionMinor, TERRAZZO_VERSION_MINOR);
  CHECK_EQ(terrazzo::kVersionPatch, TERRAZZO_VERSION_PATCH);
}

// TERRAZZO_WITH_CUDA is what CMake decided.
TERRAZZO_TEST(runtime_says_whether_it_has_the_cuda_machine) {
  CHECK_EQ(terrazzo::cuda_built(), bool{TERRAZZO_WITH_CUDA});
}

TERRAZZO_TEST(check_throws_sees_the_message) {
  CHECK_THROWS(throw std::runtime_error("[op] expected 1, got 2"), "expected 1");
}

// The first build that contracts a * b + c on its own would make bits depend on the machine.
[[gnu::noipa]] float multiply_add(float a, float b, float c) { return a * b + c; }

TERRAZZO_TEST(multiply_add_is_rounded_twice) {
  const float a = 1.0F + 0x1p-12F;
  CHECK_EQ(multiply_add(a, a, -1.0F), 0x1p-11F);
}

#if defined(__x86_64__)
[[gnu::noipa, gnu::target("avx2,fma")]] float multiply_add_fma(float a, float b, float c) {
  return a * b + c;
}

TERRAZZO_TEST(multiply_add_is_rounded_twice_where_fma_exists) {
  if (!__builtin_cpu_supports("fma")) {
    return;
  }
  const float a = 1.0F + 0x1p-12F;
  CHECK_EQ(multiply_add_fma(a, a, -1.0F), 0x1p-11F);
}
#endif

}  // namespace
