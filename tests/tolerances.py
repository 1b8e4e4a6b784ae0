"""How far results may be from their references; every number comes with its derivation."""

from __future__ import annotations

import math

# Of a float32 operation: half a unit in the last of 24 bits.
FP32_ROUNDOFF = 2.0**-24

# Distance of logits from a float32 run (relative Frobenius norm), in distances of a bfloat16 run of
# the reference. Both round weights and activations to bfloat16 at the same places and accumulate in
# float32, so the ratio is near 1. The room above it is for two error vectors of one size that are
# drawn independently, and for the partial sums of several GPUs (one more rounding a GPU).
LOGITS_OVER_BF16 = 1.25

# A log-probability is a logit minus the log of a sum of exponentials. The sum runs over the columns
# of a tile, then over tiles; exp and log are good to a few units in the last place.
_TILE_COLS = 256
_EXP_ULPS = 8


def logprob_abs(vocab: int, largest_logit: float) -> float:
    """Largest difference of a log-probability from one computed in float64 from the same logits."""
    additions = _TILE_COLS + vocab / _TILE_COLS
    arguments = 4 * max(1.0, largest_logit)  # logit - max, its exponent, log of the sum, difference
    return FP32_ROUNDOFF * (additions + _EXP_ULPS + arguments)


# Standard deviations at which a difference of two logits stands out from rounding. One row in
# 30,000 lies beyond; tests look at a few hundred rows.
_CLEAR_SIGMAS = 4.0


def greedy_margin(bf16_error_rms: float) -> float:
    """Lead of the best logit over the second beyond which rounding cannot change the best token.

    `bf16_error_rms` is the root of the mean square error of a logit in the bfloat16 run. Ours may
    be LOGITS_OVER_BF16 times as large, and a lead carries the errors of two logits.
    """
    return _CLEAR_SIGMAS * math.sqrt(2) * LOGITS_OVER_BF16 * bf16_error_rms
