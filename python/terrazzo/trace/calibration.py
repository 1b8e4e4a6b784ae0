"""What the fit of a cost model takes from traces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..costs.device_costs import DeviceCosts
from ..costs.fit import MeasuredStep, Sample
from ..costs.fit_runs import TimedRun, run_errors
from .archive import Archive, Run
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
    """Rows of work, busy times of loader and consumer, and how long after the consumer the storer
    ends, instruction by instruction."""
    columns: list[NDArray[np.float64]] = []
    consumed = np.zeros(0, np.int64)
    for role in (LOADER, CONSUMER, STORER):
        chosen = trace.role(role)
        order = np.lexsort((trace.events["position"][chosen], trace.events["gpu"][chosen]))
        events = trace.events[chosen][order]
        if not columns:
            columns.append(trace.work(chosen)[order])
        busy = (events["end_ns"] - events["begin_ns"]).astype(np.int64) - events["waited_ns"]
        end = events["end_ns"].astype(np.int64)
        if role == CONSUMER:
            consumed = end
        elif role == STORER:
            busy = end - consumed
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


def timed_runs(runs: Sequence[Run]) -> list[TimedRun]:
    """Launches of an archive with their programs."""
    return [
        TimedRun(run.title, run.programs(), run.kind, run.num_sms, run.ms * 1e6) for run in runs
    ]


LEAST_DIFFERENCE = 0.03  # of two orders' times that should be ranked right


def comparison_text(archive: Archive, costs: DeviceCosts) -> str:
    """Simulated and measured times of an archive's whole steps, part by part, and how often the
    faster one of two orders of a step is simulated as the faster one."""
    lines = []
    times: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for part, all_runs in archive.runs.items():
        chosen = [run for run in all_runs if not run.kind]
        runs = timed_runs(chosen)
        errors = run_errors(costs, runs, exact=True)
        for recorded, run, error in zip(chosen, runs, errors, strict=True):
            lines.append(f"{part:<8}{run.ns * 1e-6:>9.3f} ms {error:>+7.1%}  {run.title}")
            pair = (run.ns, run.ns * (1 + float(error)))
            times.setdefault((part + str(recorded.shape), recorded.step), []).append(pair)
        size = np.abs(errors)
        lines.append(
            f"{part}: {len(runs)} steps, median error {np.median(size):.1%}, worst {size.max():.1%}"
        )
    right, pairs = 0, 0
    for orders in times.values():
        for i, (measured, simulated) in enumerate(orders):
            for other_measured, other_simulated in orders[:i]:
                if abs(measured / other_measured - 1) > LEAST_DIFFERENCE:
                    pairs += 1
                    right += (measured < other_measured) == (simulated < other_simulated)
    if pairs:
        lines.append(f"orders that differ by more than {LEAST_DIFFERENCE:.0%}: {right} of {pairs} "
                     "pairs ranked right")  # fmt: skip
    return "\n".join(lines) + "\n"
