"""How the tokens of one request are chosen and when it ends."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

MAX_SEED = 2**64 - 1
MAX_TOP_K = 2**31 - 1  # travels as int32
MIN_TEMPERATURE = 1e-4  # below it logits / temperature may leave float32
MAX_TEMPERATURE = 1e4


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling of one request; every field is checked, a bad one raises ValueError.

    `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off. A request without a `seed` gets
    one from the engine. Text ends before the first of the `stop` strings.
    """

    max_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: bool = False

    def __post_init__(self) -> None:
        _check_int("max_tokens", self.max_tokens, 1, MAX_TOP_K)
        _check_int("top_k", self.top_k, 0, MAX_TOP_K)
        if self.seed is not None:
            _check_int("seed", self.seed, 0, MAX_SEED)
        if not _is_number(self.temperature) or not (
            self.temperature == 0.0 or MIN_TEMPERATURE <= self.temperature <= MAX_TEMPERATURE
        ):
            allowed = f"0 (greedy) or a number in [{MIN_TEMPERATURE:g}, {MAX_TEMPERATURE:g}]"
            raise _error("temperature", self.temperature, allowed)
        if not _is_number(self.top_p) or not 0.0 < np.float32(self.top_p) <= 1.0:
            raise _error("top_p", self.top_p, "a float32 in (0, 1]")
        if not isinstance(self.stop, tuple) or not all(
            isinstance(text, str) and text for text in self.stop
        ):
            raise _error("stop", self.stop, "a tuple of non-empty strings")
        for name in ("ignore_eos", "logprobs"):
            if not isinstance(getattr(self, name), bool):
                raise _error(name, getattr(self, name), "True or False")


def derived_seed(seed: int, number: int) -> int:
    """A seed for each number: 64 bits of BLAKE2b over both (little-endian u64).

    An engine's requests without a seed get that of the engine's seed and their id.
    """
    digest = hashlib.blake2b(struct.pack("<QQ", seed, number), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def sample_params(params: SamplingParams, count: int) -> list[SamplingParams]:
    """Parameters of `count` samples of one prompt: the first is `params`, the others differ in the
    seed, which each derives from the first one's (and leaves to the engine if that has none).
    """
    if params.seed is None:
        return [params] * count
    seeds = [params.seed, *(derived_seed(params.seed, i) for i in range(1, count))]
    return [replace(params, seed=seed) for seed in seeds[:count]]


def _error(name: str, value: object, allowed: str) -> ValueError:
    return ValueError(f"[SamplingParams] {name} = {value!r}: expected {allowed}")


def _check_int(name: str, value: Any, low: int, high: int) -> None:
    is_int = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_int or not low <= value <= high:
        raise _error(name, value, f"an integer in [{low}, {high}]")


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, int | float | np.integer | np.floating)
    return is_real and not isinstance(value, bool) and math.isfinite(value)
