// Compiler facts; the one place for conditionals on the compiler outside arch/.
#pragma once

#if defined(__CUDACC__)
#define TERRAZZO_FN __host__ __device__ __forceinline__
#else
#define TERRAZZO_FN inline
#endif
