// The host machine's compute kernels, compiled once for the whole runtime.
#include "terrazzo/arch/host/simd/levels.hpp"
