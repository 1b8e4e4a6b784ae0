"""Fits a device's costs to times of launches: whole steps, and each kind of instruction alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .device_costs import DeviceCosts
from .fit import Floats

if TYPE_CHECKING:
    from .._core import Programs

# What all kinds share, in the order in which it is fitted.
SHARED = (
    "hbm_gbps", "l2_gbps", "l2_per_hbm", "power_tflops", "power_tflops_per_hbm_tbps",
    "cache_bytes", "signal_ns", "load_latency_ns", "claim_ns", "handover_ns",
)  # fmt: skip
# What is fitted of a kind. The loader's time of a slot comes first: what the others add shows only
# where it is not the limit.
OF_KIND = (
    "load_slot_ns", "consume_ns_per_mflop", "consume_slot_ns", "consume_fixed_ns",
    "consume_stage_ns",
)  # fmt: skip
FIRST_STEP = 0.2  # of a value's logarithm
RENEWED_STEP = 0.04
LEAST_STEP = 0.01
SMALLEST = 0.1  # a value of 0 is tried as this
STEP_WEIGHT = 4.0  # of a whole step, against a kind alone
HALF_WEIGHT_NS = 3e5  # a run of so long has half of the weight of a long one
LEAST_SHARED_NS = 5e5  # a kind alone that takes less tells little of what all share
SMALL = ".small"
# What only several GPUs run is taken to be as what one of them runs.
ALIKE = {
    "down_partial": "down_residual",
    "down_partial.small": "down_residual.small",
    "o_partial": "down_residual",
    "o_partial.small": "down_residual.small",
}
STIFFNESS = 1e-3  # of values near where they began: what the runs do not tell stays
# How the simulator says that times have grown so long that a double holds no step of it any more.
NO_PROGRESS = "[simulate] no progress after"


@dataclass(frozen=True, slots=True, eq=False)
class TimedRun:
    """A launch: its programs, how long it took, and the one kind that ran (empty: a whole step)."""

    title: str
    programs: Programs
    opcode: str
    num_sms: int
    ns: float


def run_errors(
    costs: DeviceCosts,
    runs: Sequence[TimedRun],
    *,
    exact: bool = False,
    clocks: dict[TimedRun, float] | None = None,
) -> Floats:
    """Relative error of each run's simulated time: [runs]. `exact`: all layers are simulated.
    `clocks`: where the search for a run's clock begins, and where it ended."""
    from .._core import estimate, simulate

    model = costs.model()
    known = {} if clocks is None else clocks

    def error(run: TimedRun) -> float:
        if exact:
            ns = simulate(run.programs, model, num_sms=run.num_sms)[0]
        else:
            ns, known[run] = estimate(run.programs, model, run.num_sms, known.get(run, 1.0))
        return ns / run.ns - 1

    with ThreadPoolExecutor() as pool:
        found: Floats = np.array(list(pool.map(error, runs)))
    return found


class _Search:
    """Changes one value after the other as long as it helps; each has a step of its own."""

    def __init__(self, start: DeviceCosts) -> None:
        self.start = start
        self.values = dict(start.values)
        self.steps: dict[str, float] = {}
        self.clocks: dict[TimedRun, float] = {}

    def costs(self, values: dict[str, float]) -> DeviceCosts:
        return DeviceCosts(self.start.device, self.start.source, self.start.calibrated, values)

    def loss(
        self, values: dict[str, float], names: Sequence[str], runs: Sequence[TimedRun]
    ) -> float:
        """Of these values; infinite where the simulator gets nowhere with them."""
        from .._core import Error

        clocks = dict(self.clocks)  # a search that failed teaches nothing about the clocks
        try:
            error = np.log1p(run_errors(self.costs(values), runs, clocks=clocks))
        except Error as failure:
            if not str(failure).startswith(NO_PROGRESS):
                raise
            return math.inf
        self.clocks = clocks
        weight = np.array(
            [(1.0 if r.opcode else STEP_WEIGHT) * r.ns / (r.ns + HALF_WEIGHT_NS) for r in runs]
        )
        moved = [
            np.log(max(values[n], SMALLEST) / max(self.start.values[n], SMALLEST)) for n in names
        ]
        return float((weight * error**2).sum() / weight.sum() + STIFFNESS * np.square(moved).mean())

    def improve(self, names: Sequence[str], runs: Sequence[TimedRun]) -> float:
        """One pass over the names; the loss afterwards."""
        best = self.loss(self.values, names, runs)
        for name in names:
            step = self.steps.get(name, FIRST_STEP)
            if step < LEAST_STEP:
                continue
            for factor in (np.exp(step), np.exp(-step)):
                values = self.values | {name: max(self.values[name], SMALLEST) * float(factor)}
                loss = self.loss(values, names, runs)
                if loss < best:
                    self.values, best = values, loss
                    self.steps[name] = step * 1.5
                    break
            else:
                self.steps[name] = step / 2
        return best


def fit_runs(
    start: DeviceCosts,
    runs: Sequence[TimedRun],
    *,
    store_lags: dict[str, float] | None = None,
    rounds: int = 8,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, float]:
    """Values that bring simulated and measured times together. Kinds that no run has keep what
    `start` says, but for those of `ALIKE`. `store_lags`: by kind, ns from the consumers' end to
    the storers'. ValueError where the simulator does not get through all runs with the values
    of `start`."""
    values = dict(start.values)
    for kind, lag in (store_lags or {}).items():
        values[f"{kind}.store_fixed_ns"] = max(lag - values["store_latency_ns"], 0.0)
        values[f"{kind}.store_stage_ns"] = 0.0
    ends = [run for run in runs if run.opcode == "step_end"]
    if ends:  # a launch that does nothing else
        costs = DeviceCosts(start.device, start.source, start.calibrated, values)
        excess = [run.ns * -error for run, error in zip(ends, run_errors(costs, ends), strict=True)]
        values["launch_ns"] = max(values["launch_ns"] + float(np.median(excess)), 0.0)
    search = _Search(DeviceCosts(start.device, start.source, start.calibrated, values))
    if math.isinf(search.loss(search.values, SHARED, runs)):
        # Where a loss is infinite, so are those of all values near: no step of the search helps.
        raise ValueError(
            "[calibrate] expected start values with which every run can be simulated: the "
            "simulator makes no progress with these"
        )
    by_kind: dict[str, list[TimedRun]] = {}
    for run in runs:
        for kind in sorted(kinds_of(run.programs)):
            # Alone, few tokens are limited by HBM; what an SM takes shows in whole steps.
            if run.opcode or kind.endswith(SMALL):
                by_kind.setdefault(kind, []).append(run)
    shared_by = [run for run in runs if not run.opcode or run.ns > LEAST_SHARED_NS]
    for turn in range(rounds):
        if turn < rounds - 2:  # what has settled is moved again when others have moved
            search.steps = {name: max(step, RENEWED_STEP) for name, step in search.steps.items()}
        for kind, own in by_kind.items():
            for _ in range(2):
                search.improve([f"{kind}.{field}" for field in OF_KIND], own)
        loss = search.improve(SHARED, shared_by)
        progress(f"round {turn + 1}: loss {loss**0.5:.2%}")
    for kind, other in ALIKE.items():
        if kind not in by_kind and other in by_kind:
            names = {name for name in search.values if name.startswith(f"{other}.")}
            fields = {name.removeprefix(f"{other}.") for name in names}
            for field in fields & {*OF_KIND, "store_fixed_ns", "store_stage_ns"}:
                search.values[f"{kind}.{field}"] = search.values[f"{other}.{field}"]
    return search.values


def kinds_of(programs: Programs) -> set[str]:
    """Names of the kinds of instructions that a program has, but for the end."""
    from .._core import kind_names

    names = kind_names()
    return {names[int(kind)] for kind in np.unique(programs.work(0)[:, 0])} - {"step_end"}
