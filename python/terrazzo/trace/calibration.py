"""What the fit of a cost model takes from traces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..costs.fit import MeasuredStep, Sample
from .record import CONSUMER, KIND, LOADER, STORER, StepTrace

MOST_SAMPLES = 20_000  # of a kind


def samples_of(traces: Sequence[StepTrace]) -> list[Sample]:
    """The busy times of every kind of instruction in these traces."""
    columns = [_columns(trace) for trace in traces]
    kinds = traces[0].kinds
    samples = []
    for kind, name in enumerate(kinds):
        work, *times = (
            np.concatenate([part[i][part[0][:, KIND] == kind] for part in columns])
            for i in range(4)
        )
        if len(work) == 0 or not name:
            continue
        some = np.random.default_rng(0).permutation(len(work))[:MOST_SAMPLES]
        load, consume, store = (column[some] for column in times)
        samples.append(Sample(name, work[some], load, consume, store))
    return samples


def _columns(trace: StepTrace) -> list[NDArray[np.float64]]:
    """Rows of work and busy times of loader, consumer and storer, instruction by instruction."""
    columns: list[NDArray[np.float64]] = []
    for role in (LOADER, CONSUMER, STORER):
        chosen = trace.role(role)
        order = np.lexsort((trace.events["position"][chosen], trace.events["gpu"][chosen]))
        events = trace.events[chosen][order]
        if not columns:
            columns.append(trace.work(chosen)[order])
        busy = (events["end_ns"] - events["begin_ns"]).astype(np.int64) - events["waited_ns"]
        columns.append(np.maximum(busy, 0).astype(np.float64))
    return columns


def measured_steps(traces: Sequence[StepTrace]) -> list[MeasuredStep]:
    """The steps of these traces, lowered again. Raises ValueError where a trace has no recipe."""
    steps = []
    for trace in traces:
        if trace.recipe is None:
            raise ValueError(f"[calibrate] {trace.title}: the trace does not say what was run")
        steps.append(MeasuredStep(trace.recipe.programs(), trace.step_ns))
    return steps
