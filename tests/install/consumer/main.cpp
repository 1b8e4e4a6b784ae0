// A program outside the project that uses the installed headers and prints their version.
#include <cstdio>

#include "terrazzo/core/bf16.hpp"
#include "terrazzo/version.hpp"

int main() {
  static_assert(sizeof(terrazzo::bf16) == 2);
  std::printf("%d.%d.%d\n", terrazzo::kVersionMajor, terrazzo::kVersionMinor,
              terrazzo::kVersionPatch);
}
