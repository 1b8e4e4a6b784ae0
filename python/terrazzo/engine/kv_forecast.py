"""Whether a newcomer's KV pages fit beside those that the running sequences will grow to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..step import PAGE_TOKENS

_MIN_STRIDE = 16  # tokens
_MAX_POINTS = 2048
_HALF_PAGE = PAGE_TOKENS / 2  # of a sequence's last page is unused, on average


class KvForecast:
    """The expected use of the KV cache at moments to come, if nobody else is admitted.

    Decoding sequences grow by one token a step, and those with the fewest tokens to come leave
    first. So at `t` tokens from now the cache holds, for each sequence that then still runs, its
    tokens of now and `t` more. The highest of these sums is what must fit, not the sum of the final
    lengths. Moments are `stride` tokens apart.
    """

    __slots__ = ("_capacity", "_stride", "_times", "_usage")

    def __init__(self, num_pages: int, max_model_len: int) -> None:
        self._stride = max(_MIN_STRIDE, -(-max_model_len // _MAX_POINTS))
        num_points = -(-max_model_len // self._stride) + 1
        self._times = np.arange(num_points, dtype=np.float64) * self._stride
        self._usage = np.zeros(num_points)
        self._capacity = float(num_pages * PAGE_TOKENS)

    def start(
        self,
        tokens: NDArray[np.int64],
        remaining: NDArray[np.int64],
        shared_tokens: float,
    ) -> None:
        """Sum up running sequences: tokens of each, tokens to come of each, and how many tokens are
        counted more than once because sequences share their pages.
        """
        points = len(self._times)
        last = np.minimum(-(-remaining // self._stride), points - 1)
        count = np.bincount(last, minlength=points)[::-1].cumsum()[::-1]
        held = np.bincount(last, weights=tokens + _HALF_PAGE, minlength=points)[::-1].cumsum()
        self._usage = held[::-1] + count * self._times - shared_tokens

    def admit(self, tokens: int, remaining: int, shared_tokens: int) -> bool:
        """Count a newcomer in and return True if all fit at every moment; else change nothing."""
        last = min(-(-remaining // self._stride), len(self._times) - 1)
        growth = self._times[: last + 1] + (tokens - shared_tokens + _HALF_PAGE)
        usage = self._usage[: last + 1] + growth
        if usage.max() > self._capacity:
            return False
        self._usage[: last + 1] = usage
        return True
