"""Plays requests through a runner in any order, cut, place and company, and checks every bit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray
from unit.model.drive import Part, RunStep, Sampling, pages_of, step_input

from terrazzo.step import StepInput, StepOutput

# Most rows that a sequence gets in a step.
longest_chunks = st.sampled_from([2, 7, 64, 200])
# By their seeds: drawn number by number, long replays would exceed what Hypothesis draws, and it
# would now and then give the whole test up (HealthCheck.data_too_large).
replay_rngs = st.builds(random.Random, st.integers(0, 2**32 - 1))

PREEMPTION = 0.05  # of a step
MOST_PREEMPTIONS = 2  # of a sequence: else long ones in short chunks would hardly come to an end


@dataclass(frozen=True, slots=True)
class Request:
    prompt: tuple[int, ...]
    num_outputs: int
    sampling: Sampling

    @property
    def num_positions(self) -> int:
        """Positions that are computed; the last output is never fed."""
        return len(self.prompt) + self.num_outputs - 1


@dataclass(frozen=True, slots=True)
class Truth:
    """What a request gets when it is alone: at each position the token sampled there."""

    token_ids: tuple[int, ...]  # [positions + 1] prompt and outputs
    tokens: NDArray[np.int32]  # [positions]
    logprobs: NDArray[np.float32]  # [positions]
    logits: NDArray[np.float32]  # [positions, vocab]

    @classmethod
    def of(cls, run: RunStep, request: Request) -> Truth:
        """The prompt in one step, then token by token."""
        ids = list(request.prompt)
        pages = range(pages_of(request.num_positions))
        outputs: list[StepOutput] = []
        cached = 0
        while cached < request.num_positions:
            rows = ids[cached:]
            part = Part(rows, cached, pages, range(len(rows)), sampling=request.sampling)
            outputs.append(run(step_input([part])))
            cached = len(ids)
            ids.append(int(outputs[-1].tokens[-1]))
        return cls(
            tuple(ids),
            np.concatenate([output.tokens for output in outputs]),
            np.concatenate([output.logprobs for output in outputs]),
            np.concatenate([output.logits for output in outputs]),
        )


@dataclass(slots=True)
class _Progress:
    request: Request
    truth: Truth
    pages: list[int] = field(default_factory=list)
    num_cached: int = 0
    num_preemptions: int = 0
    previous_slot: int | None = None  # logit row of the last step that sampled the next input token

    @property
    def is_finished(self) -> bool:
        return self.num_cached == self.request.num_positions


@dataclass(frozen=True, slots=True)
class Limits:
    max_rows: int
    max_logit_rows: int
    num_pages: int


class Replay:
    """Random steps over some requests until all have ended.

    Each step takes some of the unfinished requests with a random number of rows each, samples
    random rows of them, keeps or drops logits, and now and then throws away a sequence's pages. A
    token that the previous step sampled is sometimes fed as a reference to that step's row.
    """

    def __init__(
        self,
        run: RunStep,
        requests: Sequence[tuple[Request, Truth]],
        limits: Limits,
        rng: random.Random,
        *,
        longest_chunk: int,
    ) -> None:
        self._run = run
        self._all = [_Progress(request, truth) for request, truth in requests]
        self._limits = limits
        self._rng = rng
        self._longest_chunk = longest_chunk
        self._free = list(range(limits.num_pages))
        self.num_steps = 0

    def play(self) -> None:
        while unfinished := [p for p in self._all if not p.is_finished]:
            if self._rng.random() < PREEMPTION:
                self._preempt(self._rng.choice(unfinished))
            chosen = self._choose(unfinished)
            parts = [self._part(progress, rows) for progress, rows in chosen]
            batch = step_input(parts)
            output = self._run(batch)
            self.num_steps += 1
            self._check(chosen, parts, batch, output)

    def _preempt(self, progress: _Progress) -> None:
        if progress.num_preemptions == MOST_PREEMPTIONS:
            return
        progress.num_preemptions += 1
        self._free += progress.pages
        progress.pages = []
        progress.num_cached = 0
        progress.previous_slot = None

    def _choose(self, unfinished: list[_Progress]) -> list[tuple[_Progress, int]]:
        count = self._rng.randint(1, len(unfinished))
        budget = self._limits.max_rows
        chosen = []
        for progress in self._rng.sample(unfinished, count):
            left = progress.request.num_positions - progress.num_cached
            # Beyond the prompt, rows whose tokens are known already: recomputation.
            rows = min(left, self._rng.randint(1, self._longest_chunk), budget)
            if rows:
                chosen.append((progress, rows))
                budget -= rows
        return sorted(chosen, key=lambda pair: pair[1] > 1)

    def _part(self, progress: _Progress, rows: int) -> Part:
        start, end = progress.num_cached, progress.num_cached + rows
        self._rng.shuffle(self._free)
        while len(progress.pages) < pages_of(end):
            progress.pages.append(self._free.pop())
        ids = list(progress.truth.token_ids[start:end])
        if progress.previous_slot is not None and self._rng.random() < 0.5:
            ids[0] = -(progress.previous_slot + 1)
        most = min(rows, self._limits.max_logit_rows // len(self._all))
        sampled = set(self._rng.sample(range(rows), self._rng.randint(0, most)))
        return Part(
            ids,
            start,
            progress.pages,
            sorted(sampled),
            want_logits=self._rng.random() < 0.5,
            sampling=progress.request.sampling,
        )

    def _check(
        self,
        chosen: Sequence[tuple[_Progress, int]],
        parts: Sequence[Part],
        batch: StepInput,
        output: StepOutput,
    ) -> None:
        slot = logits_slot = 0
        for progress in self._all:
            progress.previous_slot = None
        for (progress, rows), part in zip(chosen, parts, strict=True):
            truth = progress.truth
            positions = [part.context + row for row in part.sampled_rows]
            here = slice(slot, slot + len(positions))
            where = f"step {self.num_steps}, positions {positions}, context {part.context}"
            np.testing.assert_array_equal(output.tokens[here], truth.tokens[positions], where)
            np.testing.assert_array_equal(output.logprobs[here], truth.logprobs[positions], where)
            if part.want_logits:
                logits = output.logits[logits_slot : logits_slot + len(positions)]
                np.testing.assert_array_equal(logits, truth.logits[positions], where)
                logits_slot += len(positions)
            slot += len(positions)
            progress.num_cached += rows
            last = part.context + rows - 1
            is_output = last >= len(progress.request.prompt) - 1
            if positions and positions[-1] == last and is_output:
                progress.previous_slot = slot - 1
        assert slot == batch.num_logit_rows
        assert logits_slot == len(output.logits)
