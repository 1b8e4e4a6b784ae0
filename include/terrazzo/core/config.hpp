// Compiler facts; the one place for conditionals on the compiler outside arch/.
#pragma once

// TERRAZZO_FN: arithmetic that host and device share. TERRAZZO_GROUP_FN: code of a role; nvcc
// compiles it for the device only, since it calls the device's primitives.
//
// TERRAZZO_OUTLINED_FN: code of a role that is compiled as a function of its own. Each operation
// then has its own registers: one that needs many does not make the others spill.
#if defined(__CUDACC__)
#define TERRAZZO_FN __host__ __device__ __forceinline__
#define TERRAZZO_GROUP_FN __device__ __forceinline__
#define TERRAZZO_OUTLINED_FN __device__ __noinline__
#define TERRAZZO_UNROLL _Pragma("unroll")
#define TERRAZZO_NO_UNROLL _Pragma("unroll 1")
#else
#define TERRAZZO_FN inline
#define TERRAZZO_GROUP_FN inline
#define TERRAZZO_OUTLINED_FN inline
#define TERRAZZO_UNROLL
#define TERRAZZO_NO_UNROLL
#endif

// After a lambda's parameters: it must be inlined. Accumulators of products in flight may only live
// in registers; a call would put them into local memory while the tensor cores still write them.
#define TERRAZZO_LAMBDA __attribute__((always_inline))
