"""Fits a device's costs to traces of real steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .device_costs import DeviceCosts

if TYPE_CHECKING:
    from .._core import Programs

Floats = NDArray[np.float64]

# Columns of `Sample.work`, as the core's Programs.work gives them.
TENSOR_FLOPS, SLOTS, STAGES = 2, 3, 4

# What the fit of whole steps may change, and by which factors it tries.
CAPACITIES = ("hbm_gbps", "tensor_tflops", "tflops_per_hbm_tbps", "l2_gbps", "cache_bytes")
LATENCIES = ("signal_ns", "peer_signal_ns", "load_latency_ns", "claim_ns")
FACTORS = (0.7, 0.85, 0.95, 0.98, 1.02, 1.05, 1.18, 1.4)


@dataclass(frozen=True, slots=True)
class Sample:
    """What one kind of instruction did in traces: a row of work, and times in ns, for each.

    Of loader and consumer, from begin to end, less what the role waited; of the storer, from the
    consumer's end to its own.
    """

    kind: str
    work: Floats  # [n, 10]
    load_ns: Floats  # [n]
    consume_ns: Floats
    store_ns: Floats


@dataclass(frozen=True, slots=True)
class MeasuredStep:
    """A step that was run: its programs, and how long it took."""

    programs: Programs
    step_ns: float


def least_squares(columns: Sequence[Floats], times: Floats) -> list[float]:
    """Coefficients of at least 0 that explain the times: a column that would get a negative one is
    left out."""
    names = list(range(len(columns)))
    while names:
        matrix = np.stack([columns[i] for i in names], axis=1)
        scale = np.maximum(np.abs(matrix).max(axis=0), 1e-12)
        values = np.linalg.lstsq(matrix / scale, times, rcond=None)[0] / scale
        if (values >= 0).all():
            found = dict(zip(names, values.tolist(), strict=True))
            return [found.get(i, 0.0) for i in range(len(columns))]
        names.pop(int(np.argmin(values * scale)))
    return [0.0] * len(columns)


def fit_kind(sample: Sample) -> dict[str, float]:
    """The seven values of a kind, by name. Where its instructions are all alike, what cannot be
    told apart goes to the first of the columns that explain it."""
    ones = np.ones(len(sample.work))
    slots, stages = sample.work[:, SLOTS], sample.work[:, STAGES]
    mflop = sample.work[:, TENSOR_FLOPS] * 1e-6
    # Columns that differ by a factor only cannot be told apart.
    consume = _independent(
        {"consume_ns_per_mflop": mflop, "consume_slot_ns": slots, "consume_stage_ns": stages,
         "consume_fixed_ns": ones}
    )  # fmt: skip
    store = _independent({"store_stage_ns": stages, "store_fixed_ns": ones})
    values = dict.fromkeys(
        ("consume_ns_per_mflop", "consume_slot_ns", "consume_stage_ns", "consume_fixed_ns",
         "store_stage_ns", "store_fixed_ns"),
        0.0,
    )  # fmt: skip
    values["load_slot_ns"] = float(np.median(sample.load_ns / np.maximum(slots, 1)))
    for columns, times in ((consume, sample.consume_ns), (store, sample.store_ns)):
        values |= dict(zip(columns, least_squares(list(columns.values()), times), strict=True))
    return {f"{sample.kind}.{name}": value for name, value in values.items()}


def _independent(columns: dict[str, Floats]) -> dict[str, Floats]:
    """The columns that add to the rank of those before them, and are not zero throughout."""
    kept: dict[str, Floats] = {}
    for name, column in columns.items():
        if not column.any():
            continue
        candidate = np.stack([*kept.values(), column], axis=1)
        scaled = candidate / np.abs(candidate).max(axis=0)
        if np.linalg.matrix_rank(scaled, tol=1e-6 * len(scaled) ** 0.5) == candidate.shape[1]:
            kept[name] = column
    return kept


def errors(costs: DeviceCosts, steps: Sequence[MeasuredStep]) -> Floats:
    """Relative error of each step's simulated time: [steps]."""
    from .._core import simulate

    model = costs.model()
    times = np.array([simulate(step.programs, model)[0] for step in steps])
    measured = np.array([step.step_ns for step in steps])
    error: Floats = times / measured - 1
    return error


def fit_steps(
    costs: DeviceCosts,
    steps: Sequence[MeasuredStep],
    *,
    rounds: int = 3,
    names: Sequence[str] = (*CAPACITIES, *LATENCIES),
    progress: Callable[[str], None] = lambda text: None,
) -> DeviceCosts:
    """Changes one shared value after the other, as long as the simulated times of the steps come
    closer to the measured ones."""
    best = costs
    error = _mean_square(best, steps)
    for turn in range(rounds):
        before = error
        for name in names:
            for factor in FACTORS:
                values = best.values | {name: best.values[name] * factor}
                candidate = DeviceCosts(best.device, best.source, best.calibrated, values)
                candidate_error = _mean_square(candidate, steps)
                if candidate_error < error:
                    best, error = candidate, candidate_error
        progress(f"round {turn + 1}: root mean square error {error**0.5:.2%}")
        if error > 0.98 * before:
            break
    return best


def _mean_square(costs: DeviceCosts, steps: Sequence[MeasuredStep]) -> float:
    return float((np.log1p(errors(costs, steps)) ** 2).mean())


def fit(
    start: DeviceCosts,
    samples: Sequence[Sample],
    steps: Sequence[MeasuredStep],
    *,
    device: str,
    source: str,
    progress: Callable[[str], None] = lambda text: None,
) -> DeviceCosts:
    """Costs of `device`: kinds from samples, what is shared from whole steps. Kinds without
    samples keep what `start` says."""
    values = dict(start.values)
    values["power_tflops"] = 0.0  # the times of traces hold at the clock of the traces
    for sample in samples:
        after = np.maximum(sample.store_ns - values["store_latency_ns"], 0)
        values |= fit_kind(replace(sample, store_ns=after))
    fitted = DeviceCosts(device, source, True, values)
    return fit_steps(fitted, steps, progress=progress) if steps else fitted
