"""A step in a table: each kind of instruction, and the step against its limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .record import CONSUMER, FLOPS, KIND, LOADED, LOADER, SENT, TENSOR_FLOPS, StepTrace


@dataclass(frozen=True, slots=True)
class KindRow:
    """All instructions of one kind, on all GPUs. Times are of SMs: the consumers'."""

    name: str
    count: int
    sm_ns: float
    waiting_ns: float  # of which the consumers waited
    flops: float
    tensor_flops: float
    loaded_bytes: float
    hbm_bytes: float
    sent_bytes: float


@dataclass(frozen=True, slots=True)
class StepLimitsNs:
    """What the step would take if one thing alone counted."""

    tensor: float  # FLOPs at the rate of the tensor cores
    hbm: float
    nvlink: float
    serial: float  # one kind after the other, each at its slowest limit

    @property
    def roofline(self) -> float:
        """The slowest single resource."""
        return max(self.tensor, self.hbm, self.nvlink)


def kind_rows(trace: StepTrace) -> list[KindRow]:
    """Kinds that occur, in the order of their numbers."""
    consumers = trace.role(CONSUMER)
    work = trace.work(consumers)
    events = trace.events[consumers]
    times = (events["end_ns"] - events["begin_ns"]).astype(float)
    loaders = trace.role(LOADER)
    load_kinds = trace.work(loaders)[:, KIND]
    hbm = trace.hbm_bytes[loaders]
    rows = []
    for kind in np.unique(work[:, KIND]).astype(int):
        own = work[:, KIND] == kind
        rows.append(
            KindRow(
                name=trace.kinds[kind],
                count=int(own.sum()),
                sm_ns=float(times[own].sum()),
                waiting_ns=float(events["waited_ns"][own].sum()),
                flops=float(work[own, FLOPS].sum()),
                tensor_flops=float(work[own, TENSOR_FLOPS].sum()),
                loaded_bytes=float(work[own, LOADED].sum()),
                hbm_bytes=float(hbm[load_kinds == kind].sum()),
                sent_bytes=float(work[own, SENT].sum()),
            )
        )
    return rows


def limits_ns(trace: StepTrace) -> StepLimitsNs | None:
    """The step's limits, for the average GPU; None for a machine without any."""
    if trace.limits is None:
        return None
    limits, gpus = trace.limits, len(trace.programs)
    parts = [
        (
            row.tensor_flops / gpus / (limits.tensor_tflops * 1e3),
            row.hbm_bytes / gpus / limits.hbm_gbps,
            row.sent_bytes / gpus / limits.nvlink_gbps,
        )
        for row in kind_rows(trace)
    ]
    tensor, hbm, nvlink = (sum(column) for column in zip(*parts, strict=True))
    return StepLimitsNs(tensor, hbm, nvlink, sum(max(part) for part in parts))


def report_text(trace: StepTrace) -> str:
    """The table, and the step against its limits."""
    rows = kind_rows(trace)
    gpus = len(trace.programs)
    all_ns = trace.step_ns * trace.num_sms * gpus
    lines = [
        f"{trace.title}, {trace.machine}",
        f"step {_ms(trace.step_ns)}; {gpus} GPU{'s' if gpus > 1 else ''} of {trace.num_sms} SMs; "
        "rates are of a GPU if all its SMs did this",
        "",
        f"{'instruction':<24}{'count':>9}{'SM time':>9}{'waiting':>9}{'us each':>9}"
        f"{'TFLOP/s':>9}{'ring GB/s':>11}{'HBM GB':>9}{'NVLink GB':>11}",
    ]
    for row in sorted(rows, key=lambda row: -row.sm_ns):
        busy_ns = max(row.sm_ns / trace.num_sms, 1e-9)
        lines.append(
            f"{row.name:<24}{row.count:>9}{row.sm_ns / all_ns:>9.1%}"
            f"{row.waiting_ns / max(row.sm_ns, 1):>9.1%}{row.sm_ns / row.count * 1e-3:>9.2f}"
            f"{row.flops / busy_ns * 1e-3:>9.1f}{row.loaded_bytes / busy_ns:>11.0f}"
            f"{row.hbm_bytes * 1e-9:>9.3f}{row.sent_bytes * 1e-9:>11.3f}"
        )
    idle = 1 - sum(row.sm_ns for row in rows) / all_ns
    lines.append(f"{'between instructions':<24}{'':>9}{idle:>9.1%}")
    lines += ["", *_limit_lines(trace)]
    return "\n".join(lines) + "\n"


def _limit_lines(trace: StepTrace) -> list[str]:
    limits = limits_ns(trace)
    if limits is None:
        return [f"step {_ms(trace.step_ns)}; no limits are known of this machine"]
    return [
        f"{name:<42}{_ms(value):>12}   step is {trace.step_ns / value:.2f} times this"
        for name, value in (
            ("tensor cores, FLOPs as issued", limits.tensor),
            ("HBM", limits.hbm),
            ("NVLink", limits.nvlink),
            ("roofline: the slowest of these", limits.roofline),
            ("serial: kind after kind at its own limit", limits.serial),
        )
        if value > 0
    ]


def _ms(ns: float) -> str:
    return f"{ns * 1e-6:.3f} ms"
