"""The host machine beside `transformers`: SmolLM2, float32 there, on the same cores.

Each round times both, one after the other, so that other work on the machine meets both alike. On
one core the clock is CPU time, which hardly depends on other work; on all cores it is the wall's,
and figures mean something on a quiet machine only (threads of torch spin while they wait for each
other, so that it loses most where cores are taken away). Shares are asked of medians and of best
rounds.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from bench.reference_speed import Clock, Reference
from pytest_benchmark.fixture import BenchmarkFixture

from terrazzo.env import cache_dir
from terrazzo.llm import LLM
from terrazzo.models.default_model import default_gguf
from terrazzo.models.errors import ModelNotFoundError
from terrazzo.sampling import SamplingParams

pytestmark = pytest.mark.t4_bench

ROUNDS = 5
DECODE_PROMPT = list(range(1000, 1032))
DECODE_TOKENS = 32
PREFILL_PROMPT = list(range(1000, 1512))
DECODE_SHARE = 0.5  # of the reference's tokens per second, at least
PREFILL_SHARE = 0.3


@dataclass(frozen=True, slots=True)
class Contest:
    """Both programs, set up for the same cores."""

    llm: LLM
    reference: Reference
    cores: tuple[int, ...]
    clock: Clock

    def our_prefill_s(self) -> float:
        """From a prompt to its first token."""
        start = self.clock()
        self.llm.generate([PREFILL_PROMPT], SamplingParams(max_tokens=1))
        return self.clock() - start

    def our_decode_s(self) -> float:
        """Of DECODE_TOKENS tokens after the first."""
        params = SamplingParams(max_tokens=DECODE_TOKENS + 1, ignore_eos=True)
        stream = self.llm.stream(DECODE_PROMPT, params)
        next(stream)
        start = self.clock()
        count = sum(1 for _ in stream)
        elapsed = self.clock() - start
        assert count == DECODE_TOKENS
        return elapsed

    def their_prefill_s(self) -> float:
        return self.reference.prefill_s(PREFILL_PROMPT, self.clock)

    def their_decode_s(self) -> float:
        return self.reference.decode_s(DECODE_PROMPT, DECODE_TOKENS, self.clock)


@pytest.fixture(scope="module")
def gguf() -> Path:
    try:
        return default_gguf(cache_dir())
    except ModelNotFoundError as error:
        pytest.skip(f"needs the default model: {error}")


@pytest.fixture(scope="module")
def reference(gguf: Path) -> Reference:
    return Reference(gguf)


@pytest.fixture(params=["one core", "all cores"])
def contest(request: pytest.FixtureRequest, gguf: Path, reference: Reference) -> Contest:
    """Both on the process's first core, or on all of its cores."""
    available = sorted(os.sched_getaffinity(0))
    cores = tuple(available[:1] if request.param == "one core" else available)
    clock = time.process_time if len(cores) == 1 else time.perf_counter
    torch.set_num_threads(len(cores))
    llm = LLM(str(gguf), num_sms=len(cores), num_threads=len(cores), max_model_len=1024)
    return Contest(llm, reference, cores, clock)


def compare(
    benchmark: BenchmarkFixture,
    contest: Contest,
    ours: Callable[[], float],
    theirs: Callable[[], float],
    num_tokens: int,
    share: float,
) -> None:
    """Times both in turns, keeps all times, and asks for the share."""
    our_s: list[float] = []
    their_s: list[float] = []
    ours()
    theirs()
    benchmark.pedantic(
        lambda: our_s.append(ours()), setup=lambda: their_s.append(theirs()), rounds=ROUNDS
    )
    benchmark.extra_info.update(
        tokens=num_tokens,
        num_cores=len(contest.cores),
        clock=contest.clock.__name__,
        wanted_share=share,
        terrazzo_s=our_s,
        transformers_s=their_s,
        load_average=os.getloadavg()[0],
    )
    assert statistics.median(our_s) * share <= statistics.median(their_s)
    assert min(our_s) * share <= min(their_s)


def test_decode(benchmark: BenchmarkFixture, contest: Contest) -> None:
    compare(
        benchmark,
        contest,
        contest.our_decode_s,
        contest.their_decode_s,
        DECODE_TOKENS,
        DECODE_SHARE,
    )


def test_prefill(benchmark: BenchmarkFixture, contest: Contest) -> None:
    compare(
        benchmark,
        contest,
        contest.our_prefill_s,
        contest.their_prefill_s,
        len(PREFILL_PROMPT),
        PREFILL_SHARE,
    )
