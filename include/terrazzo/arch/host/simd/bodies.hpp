// All kernel bodies of one SIMD level. No include guard: levels.hpp includes this once for each
// level, inside that level's namespace and under its target. On its own this file is empty.
#if defined(TERRAZZO_SIMD_BODIES)

// clang-format off: later files use what earlier ones declare
#include "terrazzo/arch/host/simd/body_vector.hpp"
#include "terrazzo/arch/host/simd/body_math.hpp"
#include "terrazzo/arch/host/simd/body_gemm.hpp"
#include "terrazzo/arch/host/simd/body_attention.hpp"
#include "terrazzo/arch/host/simd/body_rows.hpp"
#include "terrazzo/arch/host/simd/body_sampling.hpp"
// clang-format on

inline constexpr Kernels kKernels = {
    &gemm_panel,      &attention_page,
    &attention_fold,  &exp2_row,
    &log_row,         &silu_mul,
    &round_store_row, &load_row,
    &add_row,         &scale_row,
    &sum_squares_row, &gumbel_row,
    &perturb_row,     &max_and_sum_exp_row,
};

#endif  // TERRAZZO_SIMD_BODIES
