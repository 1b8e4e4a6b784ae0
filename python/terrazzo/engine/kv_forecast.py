"""Whether a newcomer's KV pages fit beside those that the running sequences will grow to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._core import held_tokens
from ..step import PAGE_TOKENS

_MIN_STRIDE = 16  # tokens
_MAX_POINTS = 2048
_HALF_PAGE = PAGE_TOKENS / 2  # of a sequence's last page is unused, on average


class KvForecast:
    """The expected use of the KV cache at moments to come, if nobody else is admitted.

    Decoding sequences grow by one token a step, and leave. So at `t` tokens from now the cache
    holds, for each sequence that then still runs, its tokens of now and `t` more. The highest of
    these sums is what must fit, not the sum of the final lengths. A sequence runs until it has all
    its tokens; one with an open end does so with a chance that falls off with `t`. Moments are
    `stride` tokens apart.
    """

    __slots__ = ("_capacity", "_highest", "_newcomers", "_stride", "_survival", "_times", "_usage")

    def __init__(self, num_pages: int, max_model_len: int) -> None:
        self._stride = max(_MIN_STRIDE, -(-max_model_len // _MAX_POINTS))
        num_points = -(-max_model_len // self._stride) + 1
        self._times = np.arange(num_points, dtype=np.float64) * self._stride
        self._usage = np.zeros(num_points)
        self._survival = np.ones(num_points)  # chance that an open end has not come yet
        self._capacity = float(num_pages * PAGE_TOKENS)
        # Newcomers that surely fit are added up only when one comes that may not: (moments, tokens
        # of now, whether the end is open) of each, and what the highest sum cannot exceed.
        self._newcomers: list[tuple[int, float, bool]] = []
        self._highest = 0.0

    def start(
        self,
        tokens: NDArray[np.int32],
        most: NDArray[np.int32],
        is_open: NDArray[np.bool_],
        *,
        mean_open: float,
        shared_tokens: float,
    ) -> None:
        """Sum up running sequences: tokens of each, tokens that each may still get, whether its
        end is open, and how many tokens are counted more than once because sequences share their
        pages. Open ends come after `mean_open` tokens on average. Who gets no more tokens does not
        count: it is about to leave.
        """
        self._survival = np.exp(self._times / -mean_open)
        num_open = int(np.count_nonzero(is_open))
        if num_open == 0:
            self._usage = self._held(tokens, most)
        elif num_open == len(tokens):
            self._usage = self._survival * self._held(tokens, most)
        else:
            self._usage = self._held(tokens[~is_open], most[~is_open])
            self._usage += self._survival * self._held(tokens[is_open], most[is_open])
        self._usage -= shared_tokens
        self._newcomers.clear()
        self._highest = float(self._usage.max())

    def admit(self, tokens: int, most: int, *, is_open: bool, shared_tokens: int) -> bool:
        """Count a newcomer in and return True if all fit at every moment; else change nothing."""
        last = min(-(-most // self._stride), len(self._times) - 1) + 1
        now = tokens - shared_tokens + _HALF_PAGE
        highest = self._highest + now + (last - 1) * self._stride
        if highest <= self._capacity:
            self._newcomers.append((last, now, is_open))
            self._highest = highest
            return True
        for newcomer in self._newcomers:
            self._usage[: newcomer[0]] = self._with(*newcomer)
        self._newcomers.clear()
        usage = self._with(last, now, is_open)
        if fits := bool(usage.max() <= self._capacity):
            self._usage[:last] = usage
        self._highest = float(self._usage.max())
        return fits

    def _with(self, last: int, now: float, is_open: bool) -> NDArray[np.float64]:
        """The first `last` moments with one more sequence."""
        growth = self._times[:last] + now
        if is_open:
            growth *= self._survival[:last]
        growth += self._usage[:last]
        return growth

    def _held(self, tokens: NDArray[np.int32], most: NDArray[np.int32]) -> NDArray[np.float64]:
        """Tokens at each moment, if all sequences get all tokens that they may."""
        return held_tokens(tokens, most, self._stride, len(self._times), _HALF_PAGE)
