"""Counts and times of an engine: as an object, as one line, and as a Prometheus text file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from ..models.config import ModelConfig
from ..step import StepInput


@dataclass(frozen=True, slots=True)
class StepTimes:
    """Seconds of the engine's thread since it was made, by what it did; sums over all steps.

    `wait` is the time in which it waited for a step to end: what is left of it says how far the
    machine, not the host, sets the pace.
    """

    plan: float = 0.0
    submit: float = 0.0
    wait: float = 0.0
    commit: float = 0.0
    text: float = 0.0  # updates and outputs, and texts where no thread makes them
    elapsed: float = 0.0  # from the first submission to the last collection

    @property
    def host(self) -> float:
        """Work of the engine itself, text left out."""
        return self.plan + self.commit


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """Counts since the engine was made, and its state now."""

    steps: int
    computed_rows: int  # rows of all steps, recomputed ones included
    prompt_tokens: int  # of requests that were admitted
    reused_tokens: int  # of prompts, found in the KV cache
    generated_tokens: int
    preemptions: int
    finished: int
    aborted: int
    running: int
    waiting: int
    preempted: int  # of those waiting
    free_pages: int  # cached ones included
    cached_pages: int  # free, and found again if a prompt begins like them
    num_pages: int
    model_flops: float = 0.0  # multiplications and additions of all steps
    times: StepTimes = field(default=StepTimes(), compare=False)

    @property
    def kv_use(self) -> float:
        """Share of the KV pages that are in use."""
        return 1 - self.free_pages / self.num_pages

    def mfu(self, peak_flops: float) -> float:
        """Share of the machine's peak (flop/s of all its GPUs) between first and last step."""
        return self.model_flops / (peak_flops * self.times.elapsed) if self.times.elapsed else 0.0


class FlopCounter:
    """Multiplications and additions that a step needs: of all its products and of attention.

    Padding, recomputation of softmax and the like do not count; recomputed rows do.
    """

    __slots__ = ("_per_logit_row", "_per_pair", "_per_row")

    def __init__(self, config: ModelConfig) -> None:
        heads = config.num_heads * config.head_dim
        kv = config.num_kv_heads * config.head_dim
        hidden = config.hidden_size
        weights = hidden * (2 * heads + 2 * kv) + 3 * hidden * config.intermediate_size
        self._per_row = 2.0 * weights * config.num_layers
        self._per_pair = 4.0 * heads * config.num_layers  # a query with a key, and its value
        self._per_logit_row = 2.0 * hidden * config.vocab_size

    def of(self, batch: StepInput) -> float:
        rows = batch.seq_lens.astype(np.float64)
        pairs = float((rows * (batch.context_lens + (rows + 1) / 2)).sum())
        return (
            self._per_row * batch.num_rows
            + self._per_pair * pairs
            + self._per_logit_row * batch.num_logit_rows
        )


def progress_line(
    now: EngineMetrics, before: EngineMetrics, seconds: float, peak_flops: float | None = None
) -> str:
    """What happened between two snapshots, so many seconds apart."""
    seconds = max(seconds, 1e-9)
    out = (now.generated_tokens - before.generated_tokens) / seconds
    computed = (now.computed_rows - before.computed_rows) / seconds
    line = (
        f"{now.finished} done, {now.running} running, {now.waiting} waiting, "
        f"{out:,.0f} output tokens/s, {computed:,.0f} rows/s, KV {now.kv_use:.0%}"
    )
    if now.preemptions:
        line += f", {now.preemptions} preemptions"
    if peak_flops:
        line += f", MFU {(now.model_flops - before.model_flops) / seconds / peak_flops:.1%}"
    return line


_GAUGES = {"running", "waiting", "preempted", "free_pages", "cached_pages", "num_pages"}


def prometheus_text(metrics: EngineMetrics, peak_flops: float | None = None) -> str:
    """All metrics in Prometheus's text format; counters end in `_total`."""
    lines = list(_prometheus_lines(metrics, peak_flops))
    return "\n".join(lines) + "\n"


def write_prometheus(path: Path, metrics: EngineMetrics, peak_flops: float | None = None) -> None:
    """Write the text file for a collector that reads files; it never sees half of one."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(prometheus_text(metrics, peak_flops))
    temporary.replace(path)


def _prometheus_lines(metrics: EngineMetrics, peak_flops: float | None) -> Iterator[str]:
    for entry in fields(metrics):
        if entry.name == "times":
            continue
        is_gauge = entry.name in _GAUGES
        name = f"terrazzo_{entry.name}" + ("" if is_gauge else "_total")
        yield f"# TYPE {name} {'gauge' if is_gauge else 'counter'}"
        yield f"{name} {getattr(metrics, entry.name):.17g}"
    yield "# TYPE terrazzo_seconds_total counter"
    for part in fields(metrics.times):
        value = getattr(metrics.times, part.name)
        yield f'terrazzo_seconds_total{{part="{part.name}"}} {value:.9g}'
    yield "# TYPE terrazzo_kv_use_ratio gauge"
    yield f"terrazzo_kv_use_ratio {metrics.kv_use:.9g}"
    if peak_flops:
        yield "# TYPE terrazzo_mfu_ratio gauge"
        yield f"terrazzo_mfu_ratio {metrics.mfu(peak_flops):.9g}"
