"""How long an output will be that has not ended yet."""

from __future__ import annotations

FIRST_GUESS = 256.0  # tokens
_MEMORY_STEPS = 1024.0


class LengthEstimate:
    """A running estimate of the tokens that an output with open end still gets.

    Outputs end with a constant chance a token: all tokens generated over all ends seen (both
    forgotten over about 1,000 steps) is the expected rest, whatever has been generated already.
    Unlike the mean length of finished outputs this is not biased to short ones, which end first.
    """

    __slots__ = ("_ends", "_tokens")

    def __init__(self, first_guess: float = FIRST_GUESS) -> None:
        self._tokens = first_guess  # as heavy as one request that ended
        self._ends = 1.0

    def observe(self, num_tokens: int, num_ends: int) -> None:
        """Count the tokens of a step of requests whose end is open, and how many of them ended."""
        keep = 1.0 - 1.0 / _MEMORY_STEPS
        self._tokens = self._tokens * keep + num_tokens
        # Never below the weight of the first guess: long without an end is long, not endless.
        self._ends = max(self._ends * keep + num_ends, 1.0)

    @property
    def remaining(self) -> float:
        """Expected tokens to come."""
        return max(1.0, self._tokens / self._ends)
