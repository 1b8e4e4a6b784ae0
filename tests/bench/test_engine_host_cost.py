"""Host time of a step with 4,096 running sequences, on a machine that returns at once.

One core; text decoding is left out (it has a thread of its own). The aim is 2 ms a step, however
many requests wait. Times are CPU time of the engine's thread, which other work on the machine
changes less than it does the clock's time.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bench.host_traffic import SEQUENCES, LoadedEngine, Traffic, instant_engine
from bench.instant_runner import VOCAB_SIZE
from pytest_benchmark.fixture import BenchmarkFixture

from terrazzo.bench.workload import read_lengths, sample, with_random_tokens
from terrazzo.engine import Engine
from terrazzo.sampling import SamplingParams

pytestmark = pytest.mark.t4_bench

STEPS = 100  # of a round
ROUNDS = 5
AIM_MS = 2.0
TRACE = Path(__file__).parents[3] / "shared/data/sharegpt_lengths.csv"

# About 20 sequences end in a step and 20 come. "evictions": beside the running sequences' pages
# there is little room, so each page that is handed out was kept for reuse before.
CASES = {
    "ends": Traffic(),
    "no_queue": Traffic(num_waiting=0),
    "queue_1000000": Traffic(num_waiting=1_000_000),
    "end_tokens": Traffic(ends_by_token=True),
    "samples_8": Traffic(num_samples=8),
    "shared_prefix_256": Traffic(shared_tokens=256),
    "evictions": Traffic(num_pages=36_000),
}


@pytest.fixture(autouse=True)
def parts_in_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the engine add up its parts by the clock that steps are timed with."""
    monkeypatch.setattr("terrazzo.engine.engine.perf_counter", time.thread_time)


class StepClock:
    """Times the steps of an engine, and what it did meanwhile."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._before = engine.metrics()
        self._times: list[float] = []

    def steps(self, count: int) -> None:
        engine = self._engine
        for _ in range(count):
            start = time.thread_time()
            engine.step()
            self._times.append(time.thread_time() - start)

    def note(self, benchmark: BenchmarkFixture) -> None:
        """Write down milliseconds of a step, its parts, and its traffic."""
        before, after = self._before, self._engine.metrics()
        num_steps = after.steps - before.steps
        times = np.array(self._times) * 1e3
        parts = {
            part: (getattr(after.times, part) - getattr(before.times, part)) / num_steps * 1e3
            for part in ("plan", "submit", "wait", "commit", "text")
        }
        benchmark.extra_info.update(
            ms_a_step=float(np.median(times)),
            mean_ms_a_step=float(times.mean()),
            p99_ms_a_step=float(np.percentile(times, 99)),
            aim_ms=AIM_MS,
            parts_ms=parts,
            steps=num_steps,
            ended_a_step=(after.finished - before.finished) / num_steps,
            rows_a_step=(after.computed_rows - before.computed_rows) / num_steps,
            reused_tokens_a_step=(after.reused_tokens - before.reused_tokens) / num_steps,
            preemptions=after.preemptions - before.preemptions,
            running=after.running,
            waiting=after.waiting,
            load_average=os.getloadavg()[0],
        )


def measure(benchmark: BenchmarkFixture, engine: Engine, refill: Callable[[], None]) -> None:
    """Time rounds of steps; `refill` keeps the queue as long as it was, and is not timed."""
    clock = StepClock(engine)
    benchmark.pedantic(clock.steps, args=(STEPS,), setup=refill, rounds=ROUNDS)
    clock.note(benchmark)
    assert engine.metrics().running > 0.95 * SEQUENCES


def test_decode(benchmark: BenchmarkFixture) -> None:
    """Every sequence decodes; nobody comes or goes."""
    engine = instant_engine()
    params = SamplingParams(max_tokens=1000, ignore_eos=True)
    for first in range(SEQUENCES):
        engine.add_request((np.arange(200) + first) % VOCAB_SIZE, params, stream=False)
    while engine.num_waiting or engine.metrics().generated_tokens < 20 * SEQUENCES:
        engine.step()
    measure(benchmark, engine, lambda: None)


@pytest.mark.parametrize("case", CASES)
def test_traffic(benchmark: BenchmarkFixture, case: str) -> None:
    """Sequences of ShareGPT-like lengths end, and others take their places."""
    loaded = LoadedEngine(CASES[case])
    if CASES[case].num_waiting:

        def refill() -> None:
            loaded.refill()
            gc.collect()

        measure(benchmark, loaded.engine, refill)
        return
    # Who left is replaced before every step.
    clock = StepClock(loaded.engine)

    def steps() -> None:
        for _ in range(STEPS):
            loaded.refill()
            clock.steps(1)

    benchmark.pedantic(steps, rounds=ROUNDS)
    clock.note(benchmark)
    assert loaded.engine.metrics().running > 0.95 * SEQUENCES


@pytest.mark.skipif(not TRACE.exists(), reason=f"there is no trace {TRACE}")
def test_trace(benchmark: BenchmarkFixture) -> None:
    """All requests of the trace, which wait from the start; steps with all slots taken count."""
    rows = read_lengths(TRACE)
    workload = with_random_tokens("trace", sample(rows, len(rows), 0), VOCAB_SIZE, 0)
    engine = instant_engine()
    for prompt, outputs in zip(workload.prompts, workload.num_outputs, strict=True):
        params = SamplingParams(max_tokens=outputs, ignore_eos=True)
        engine.add_request(prompt, params, stream=False)
    while engine.num_waiting > len(rows) - SEQUENCES:
        engine.step()
    gc.collect()
    clock = StepClock(engine)

    def while_some_wait() -> None:
        while engine.num_waiting:
            clock.steps(1)

    benchmark.pedantic(while_some_wait, rounds=1)
    clock.note(benchmark)
