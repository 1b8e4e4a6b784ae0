"""Times of single steps: decode batches over contexts, prompt chunks, and both together."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np

from ..engine.metrics import FlopCounter
from ..step import PAGE_TOKENS, Runner, StepInput, StepTicket
from .step_shapes import RecordedStep, Room, StepShape


@dataclass(frozen=True, slots=True)
class StepTime:
    """Of one shape: seconds of a step in a row of them, and of one alone, both with the host."""

    kind: str
    shape: StepShape | RecordedStep
    seconds: float  # median distance of steps that are submitted ahead, as the engine does
    alone_seconds: float | None  # median, from submission to result with nothing else in flight
    flops: float

    @property
    def tokens_per_s(self) -> float:
        return self.shape.rows / self.seconds

    def row(self, peak_flops: float | None) -> dict[str, Any]:
        """The result's line in the table, and in the JSON file."""
        return {
            "kind": self.kind,
            **self.shape.columns(),
            "ms": round(self.seconds * 1e3, 4),
            "alone ms": (
                None if self.alone_seconds is None else round(self.alone_seconds * 1e3, 4)
            ),
            "tokens/s": round(self.tokens_per_s, 1),
            "MFU": None if not peak_flops else round(self.flops / self.seconds / peak_flops, 4),
        }


def sweep(
    batches: list[int], contexts: list[int], chunks: list[int], max_sequences: int
) -> Iterator[tuple[str, StepShape]]:
    """Shapes to measure: decode batches at each context, prompt chunks from the start, and the
    largest batch at each context with each chunk, beside which there must be room for it.
    """
    for context in contexts:
        for batch in batches:
            yield "decode", StepShape(batch, context, 0, 0)
    for chunk in chunks:
        yield "prompt", StepShape(0, 0, chunk, (chunk + 1) // 2)
    largest = min(max(batches), max_sequences - 1)
    for context in contexts if largest > 0 else ():
        for chunk in chunks:
            yield "mixed", StepShape(largest, context, chunk, (chunk + 1) // 2)


def build_step(runner: Runner, shape: StepShape | RecordedStep, seed: int = 0) -> StepInput | None:
    """A step of this shape with random tokens, each sequence on pages of its own; None where the
    runner is too small for it.
    """
    if isinstance(shape, StepShape):
        parts = shape.parts(runner.max_sequences)
        num_logits = len(parts)
    else:
        parts, num_logits = shape.parts(), shape.logits
    room = Room(runner.max_tokens, runner.max_sequences, runner.num_pages, runner.max_model_len)
    if not parts or not Room.of(parts).fits_in(room):
        return None
    rng = np.random.default_rng(seed)
    rows = np.array([part[0] for part in parts], np.int64)
    context = np.array([part[1] for part in parts], np.int64)
    num_pages = -(-(rows + context) // PAGE_TOKENS)
    return StepInput(
        token_ids=rng.integers(0, runner.config.vocab_size, int(rows.sum()), np.int32),
        seq_lens=rows.astype(np.int32),
        context_lens=context.astype(np.int32),
        page_indptr=np.concatenate([[0], np.cumsum(num_pages)]).astype(np.int32),
        page_ids=rng.permutation(int(num_pages.sum())).astype(np.int32),
        logit_rows=(np.cumsum(rows) - 1)[:num_logits].astype(np.int32),
        temperature=np.zeros(num_logits, np.float32),
        top_k=np.zeros(num_logits, np.int32),
        top_p=np.ones(num_logits, np.float32),
        seed=np.zeros(num_logits, np.uint64),
        output_position=np.zeros(num_logits, np.int32),
        want_logits=np.zeros(num_logits, np.bool_),
    )


def fill_pages(runner: Runner) -> None:
    """Write all KV pages, so that steps read what they would: the power that a step takes, and
    with it the clock, depends on the numbers.
    """
    each = max(1, min(runner.max_tokens // PAGE_TOKENS, runner.max_sequences))
    rows = min(PAGE_TOKENS, runner.max_tokens, runner.max_model_len)
    rng = np.random.default_rng(1)
    for first in range(0, runner.num_pages, each):
        count = min(each, runner.num_pages - first)
        runner.step(
            StepInput(
                token_ids=rng.integers(0, runner.config.vocab_size, count * rows, np.int32),
                seq_lens=np.full(count, rows, np.int32),
                context_lens=np.zeros(count, np.int32),
                page_indptr=np.arange(count + 1, dtype=np.int32),
                page_ids=np.arange(first, first + count, dtype=np.int32),
                logit_rows=np.empty(0, np.int32),
                temperature=np.empty(0, np.float32),
                top_k=np.empty(0, np.int32),
                top_p=np.empty(0, np.float32),
                seed=np.empty(0, np.uint64),
                output_position=np.empty(0, np.int32),
                want_logits=np.empty(0, np.bool_),
            )
        )


def measure_step(
    runner: Runner,
    kind: str,
    shape: StepShape | RecordedStep,
    *,
    repeats: int = 10,
    alone: bool = True,
) -> StepTime | None:
    """Median times of a shape after two steps of warming up; None where it does not fit.

    Without `alone` only of steps in a row, which takes half as long.
    """
    batch = build_step(runner, shape)
    if batch is None:
        return None
    times_alone = []
    if alone:
        for _ in range(2):
            runner.step(batch)
        for _ in range(repeats):
            start = perf_counter()
            runner.step(batch)
            times_alone.append(perf_counter() - start)
    warm_up = 0 if alone else 2
    ends = list(_in_a_row(runner, batch, warm_up + repeats + 1))[warm_up:]
    distances = [after - before for before, after in pairwise(ends)]
    return StepTime(
        kind,
        shape,
        statistics.median(distances),
        statistics.median(times_alone) if alone else None,
        FlopCounter(runner.config).of(batch),
    )


def _in_a_row(runner: Runner, batch: StepInput, count: int) -> Iterator[float]:
    """When each of `count` steps ended that follow each other without a pause."""
    tickets: deque[StepTicket] = deque()
    num_submitted = 0
    for _ in range(count):
        while num_submitted < count and len(tickets) < runner.max_in_flight:
            tickets.append(runner.submit(batch))
            num_submitted += 1
        runner.collect(tickets.popleft())
        yield perf_counter()
