"""Lets a benchmark's statistics be times that were measured on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

from pytest_benchmark.fixture import BenchmarkFixture
from pytest_benchmark.stats import Stats


def keep_times(benchmark: BenchmarkFixture, times_ms: Mapping[str, Sequence[float]]) -> None:
    """Compare these times with the baseline's, each name for itself.

    The clock around a test also sees compilers, peers and preparation. An entry "test: name" is
    added for each name, of the times in its list; the test's own entry gets their sums, round by
    round. Call it once, after the benchmark has run.
    """
    stats = benchmark.stats
    if stats is None:
        return  # --benchmark-disable
    rounds = list(zip(*times_ms.values(), strict=True))
    if not rounds:
        raise ValueError("[keep_times] expected at least one time")
    stats.stats = _stats([sum(each) for each in rounds])
    for name, times in times_ms.items() if len(times_ms) > 1 else ():
        entry = copy(stats)
        entry.name, entry.fullname = f"{stats.name}: {name}", f"{stats.fullname}: {name}"
        entry.extra_info = {}
        entry.stats = _stats(times)
        benchmark._add_stats(entry)


def _stats(times_ms: Sequence[float]) -> Stats:
    stats = Stats()
    for ms in times_ms:
        stats.update(ms * 1e-3)
    return stats
