"""Carries out what `terrazzo bench` was asked for."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..bench.machine import describe, peak_flops
from ..bench.report import line_chart, stacked_bars
from ..bench.step_shapes import RecordedStep, StepShape, room_for
from ..bench.step_sum import draw, read_recorded, substitutes, sum_of_times
from ..bench.steps import StepTime, fill_pages, measure_step, sweep
from ..bench.target import Target
from ..bench.throughput import ThroughputResult, measure_throughput
from ..bench.workload import (
    Workload,
    parse_grid,
    read_lengths,
    read_sharegpt,
    sample,
    with_random_tokens,
    with_texts,
)
from ..engine import EngineMetrics, SchedulerLimits, progress_line, write_prometheus

if TYPE_CHECKING:
    from ..models.tokenizer import Tokenizer
    from ..runner import ModelRunner

Outcome = tuple[list[dict[str, Any]], dict[str, Any], str]  # table, JSON, picture

_REPORT_SECONDS = 2.0


def run_throughput(options: argparse.Namespace, target: Target) -> Outcome:
    """Measure each of the workloads."""
    runner, tokenizer = target.open()
    peak = peak_flops(runner.device, target.gpus // target.ranks_per_gpu)
    limits = None
    if options.max_chunk is not None:
        most = SchedulerLimits.of(runner)
        limits = SchedulerLimits(
            most.max_batch_tokens, options.max_chunk, most.max_sequences, most.num_pages
        )
    results: list[ThroughputResult] = []
    for workload in _workloads(options, runner.config.vocab_size, tokenizer):
        with _Progress(workload, options.metrics, peak) as progress:
            result = measure_throughput(
                runner,
                workload,
                limits=limits,
                run_ahead=not options.no_run_ahead,
                prefix_reuse=not options.no_prefix_reuse,
                progress=progress.update,
            )
        results.append(result)
    record = {
        "benchmark": "throughput",
        "machine": describe(runner.device, target.gpus // target.ranks_per_gpu),
        **_sizes(target, runner),
        "results": [result.record(peak) for result in results],
    }
    parts = {result.workload.name: result.record(peak)["ms_per_step"] for result in results}
    return (
        [result.row(peak) for result in results],
        record,
        stacked_bars("Where a step's time went on the host", "ms", parts),
    )


def run_steps(options: argparse.Namespace, target: Target) -> Outcome:
    """Measure each of the shapes."""
    if options.sample is not None and options.shapes_of is None:
        raise ValueError("[bench] --sample draws from recorded steps: it needs --shapes-of")
    if options.sample is not None and options.sample < 2:
        raise ValueError(f"[bench] sample: expected at least 2 steps, got {options.sample}")
    recorded = drawn = None
    if options.shapes_of is not None:
        recorded, kv_pages = read_recorded(options.shapes_of)
        drawn = recorded
        if options.sample is not None:
            drawn = draw(recorded, options.sample, options.seed)
        target = target.with_room(room_for(drawn), most_pages=kv_pages)
    runner, _ = target.open()
    peak = peak_flops(runner.device, target.gpus // target.ranks_per_gpu)
    fill_pages(runner)
    shapes: Iterable[tuple[str, StepShape | RecordedStep]]
    if drawn is None:
        shapes = sweep(options.batches, options.contexts, options.chunks, runner.max_sequences)
    else:
        shapes = [("recorded", step) for step in drawn]
    times: list[StepTime] = []
    notes: list[str] = []
    for kind, shape in shapes:
        # Of a recorded run only the sum counts, and of its steps none was alone.
        measured = measure_step(
            runner, kind, shape, repeats=options.repeats, alone=recorded is None
        )
        if measured is not None:
            times.append(measured)
        elif recorded is None:  # of a recorded run another step stands in, as `_sum_of` notes
            notes.append(f"left out, too large for the machine: {kind} {tuple(shape)}")
    record: dict[str, Any] = {
        "benchmark": "steps",
        "machine": describe(runner.device, target.gpus // target.ranks_per_gpu),
        **_sizes(target, runner),
        "results": [entry.row(peak) for entry in times],
    }
    if recorded is not None and drawn is not None:
        seconds = {
            entry.shape: entry.seconds for entry in times if isinstance(entry.shape, RecordedStep)
        }
        is_sample = options.sample is not None and sum(drawn.values()) < sum(recorded.values())
        figures, sum_notes = _sum_of(recorded, drawn, seconds, options.seed if is_sample else None)
        record |= figures
        notes += sum_notes
    record["notes"] = notes
    return [entry.row(peak) for entry in times], record, _step_picture(times)


def _sum_of(
    recorded: Counter[RecordedStep],
    drawn: Counter[RecordedStep],
    seconds: Mapping[RecordedStep, float],
    seed: int | None,
) -> tuple[dict[str, Any], list[str]]:
    """Figures for the JSON file, and what is said about them. `seed`: None if nothing was left to
    chance. `steps_without_room` is of the drawn steps: one that was drawn twice counts twice."""
    guesses = substitutes(seconds, drawn)
    total = sum_of_times({**seconds, **guesses}, drawn, recorded)
    num_steps, num_drawn = sum(recorded.values()), sum(drawn.values())
    num_guessed = sum(drawn[step] for step in guesses)
    figures: dict[str, Any] = {"sum_of_steps_s": total.seconds, "steps_without_room": num_guessed}
    if seed is None:
        but = " but those below" if guesses else ""
        note = (
            f"{num_steps} recorded steps take {total.seconds:.3f} s: all {len(drawn)} shapes of "
            f"them measured{but}"
        )
    else:
        figures["sample"] = {
            "steps": num_drawn,
            "of": num_steps,
            "seed": seed,
            "standard_error_s": total.standard_error,
        }
        note = (
            f"{num_steps} recorded steps take {total.seconds:.3f} s, standard error "
            f"{total.standard_error:.3f} s: estimated from {num_drawn} drawn at random with "
            f"replacement, long ones more often (seed {seed}), {len(drawn)} shapes"
        )
    notes = [note]
    if guesses:
        largest = max(guesses, key=lambda step: step.room().pages)
        unknown = "" if seed is None else "; the standard error leaves out what that is off by"
        notes.append(
            f"WARNING: the machine had no room for {num_guessed} of these {num_drawn} steps, which "
            "were not measured: each counts as the measured step that is nearest in rows, times "
            f"the ratio of rows where it is larger; the largest needs {largest.room()}{unknown}"
        )
    return figures, notes


def _step_picture(times: list[StepTime]) -> str:
    lines: dict[str, list[tuple[float, float]]] = {}
    for entry in times:
        name = entry.kind
        if name in ("decode", "mixed"):
            name += f" at {entry.shape.columns()['context']}"
        lines.setdefault(name, []).append((entry.shape.rows, entry.tokens_per_s))
    return line_chart("Throughput of steps", "rows of a step", "rows/s", lines) if lines else ""


def _workloads(
    options: argparse.Namespace, vocab_size: int, tokenizer: Tokenizer | None
) -> Iterator[Workload]:
    count, seed = options.requests, options.seed
    if count < 1:
        raise ValueError(f"[bench] requests: expected at least 1, got {count}")
    if options.lengths is not None:
        lengths = sample(read_lengths(options.lengths), count, seed)
        yield with_random_tokens(f"trace:{count}", lengths, vocab_size, seed)
    elif options.sharegpt is not None:
        if tokenizer is None:
            raise ValueError("[bench] --sharegpt needs a model with a tokenizer, not a shape")
        pairs = read_sharegpt(options.sharegpt, tokenizer.encode)
        yield with_texts(f"sharegpt:{count}", pairs, count, seed)
    else:
        for pair in parse_grid(options.grid):
            name = f"{pair[0]}/{pair[1]}"
            yield with_random_tokens(name, [pair] * count, vocab_size, seed)


def _sizes(target: Target, runner: ModelRunner) -> dict[str, Any]:
    return {
        "model": target.shape or target.model or "default",
        "weights": target.weights,
        "max_batch_tokens": runner.max_tokens,
        "max_sequences": runner.max_sequences,
        "max_model_len": runner.max_model_len,
        "kv_pages": runner.num_pages,
        "max_in_flight": runner.max_in_flight,
    }


class _Progress:
    """The progress bar with speeds, and the Prometheus file."""

    def __init__(self, workload: Workload, path: Path | None, peak: float | None) -> None:
        from tqdm import tqdm

        total = workload.num_output_tokens
        self._bar = tqdm(total=total, desc=workload.name, unit="token", leave=False, disable=None)
        self._path, self._peak = path, peak
        self._before: EngineMetrics | None = None
        self._now: EngineMetrics | None = None
        self._time = time.monotonic()

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._write()

    def update(self, metrics: EngineMetrics) -> None:
        self._now = metrics
        now = time.monotonic()
        if self._before is None:
            self._before = metrics
        if now - self._time >= _REPORT_SECONDS:
            line = progress_line(metrics, self._before, now - self._time, self._peak)
            self._bar.set_postfix_str(line, refresh=False)
            self._bar.update(metrics.generated_tokens - self._bar.n)
            self._before, self._time = metrics, now
            self._write()

    def _write(self) -> None:
        if self._path is not None and self._now is not None:
            write_prometheus(self._path, self._now, self._peak)
