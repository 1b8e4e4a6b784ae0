"""Traffic that keeps an engine full: what comes in, what waits, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from bench.instant_runner import END_TOKEN, VOCAB_SIZE, InstantRunner
from numpy.typing import NDArray

from terrazzo.engine import Engine
from terrazzo.sampling import SamplingParams

SEQUENCES = 4096
MAX_MODEL_LEN = 2048
MANY_PAGES = 131072
_MEAN_TOKENS = 200  # of a prompt, and of an output; both exponential, like ShareGPT's
_MAX_TOKENS = 1000
_WARM_UP_STEPS = 600
_BLOCK = 1024  # prompts that are drawn at once


@dataclass(frozen=True, slots=True)
class Traffic:
    """What is special about a case; the default is prompts of their own that end by length."""

    num_waiting: int = 5_000
    num_samples: int = 1  # requests of each prompt
    shared_tokens: int = 0  # with which each prompt begins, one of 8 beginnings
    ends_by_token: bool = False
    num_pages: int = MANY_PAGES


class LoadedEngine:
    """An engine with 4,096 running sequences and `num_waiting` waiting requests."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic
        self.engine = instant_engine(
            traffic.num_pages, end_share=1 / _MEAN_TOKENS if traffic.ends_by_token else 0.0
        )
        self._rng = np.random.default_rng(0)
        self._tokens = self._rng.integers(2, VOCAB_SIZE, 2_000_000).astype(np.int32)
        self._prompts = self._endless()
        self._add(SEQUENCES)
        for _ in range(_WARM_UP_STEPS):
            self.refill(min(traffic.num_waiting, 1000))
            self.engine.step()
        self.refill()

    def refill(self, num_waiting: int | None = None) -> None:
        """Make the queue as long as it should be; with nobody waiting, replace who has left."""
        wanted = self._traffic.num_waiting if num_waiting is None else num_waiting
        metrics = self.engine.metrics()
        self._add(wanted + SEQUENCES - metrics.running - metrics.waiting)

    def _add(self, count: int) -> None:
        for _ in range(count):
            self.engine.add_request(*next(self._prompts), stream=False)

    def _endless(self) -> Iterator[tuple[NDArray[np.int32], SamplingParams]]:
        traffic, rng = self._traffic, self._rng
        lengths = np.clip(rng.exponential(_MEAN_TOKENS, 10_000).astype(int), 4, _MAX_TOKENS)
        if traffic.ends_by_token:
            every = [SamplingParams(max_tokens=_MAX_TOKENS)]
        else:
            every = [SamplingParams(max_tokens=int(n), ignore_eos=True) for n in lengths]
        beginnings = rng.integers(2, VOCAB_SIZE, (8, traffic.shared_tokens)).astype(np.int32)
        last = len(self._tokens) - _MAX_TOKENS
        while True:
            starts = rng.integers(0, last, _BLOCK).tolist()
            sizes = rng.choice(lengths, _BLOCK).tolist()
            begun = rng.integers(8, size=_BLOCK).tolist()
            kinds = rng.integers(len(every), size=(_BLOCK, traffic.num_samples)).tolist()
            for start, size, which, of_samples in zip(starts, sizes, begun, kinds, strict=True):
                prompt = self._tokens[start : start + size]
                if traffic.shared_tokens:
                    prompt = np.concatenate([beginnings[which], prompt])
                for kind in of_samples:
                    yield prompt, every[kind]


def instant_engine(num_pages: int = MANY_PAGES, end_share: float = 0.0) -> Engine:
    """An engine for 4,096 sequences on a machine that returns at once."""
    runner = InstantRunner(
        num_pages=num_pages,
        max_tokens=16384,
        max_sequences=SEQUENCES,
        max_model_len=MAX_MODEL_LEN,
        end_share=end_share,
    )
    return Engine(runner, [END_TOKEN, 1])
