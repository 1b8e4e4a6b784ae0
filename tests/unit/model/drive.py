"""Drives a runner by hand: steps from parts of sequences, and teacher-forced logits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terrazzo.step import PAGE_TOKENS, StepInput, StepOutput

RunStep = Callable[[StepInput], StepOutput]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a row's token is chosen; the default is greedy."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one sequence in a step, and those of them (ascending) that get a token.

    The noise of a sampled row is keyed by its position in the sequence.
    """

    token_ids: Sequence[int]
    context: int
    pages: Sequence[int]
    sampled_rows: Sequence[int] = ()
    want_logits: bool = True
    sampling: Sampling = Sampling()


def pages_of(num_tokens: int) -> int:
    return -(-num_tokens // PAGE_TOKENS)


def step_input(parts: Sequence[Part]) -> StepInput:
    """A step of these parts, in their order."""
    starts = np.cumsum([0] + [len(part.token_ids) for part in parts])
    sampled = [
        (part, int(start) + row, part.context + row)
        for part, start in zip(parts, starts, strict=False)
        for row in part.sampled_rows
    ]
    ends = [part.context + len(part.token_ids) for part in parts]
    pages = [
        np.asarray(part.pages[: pages_of(end)], np.int32)
        for part, end in zip(parts, ends, strict=True)
    ]
    return StepInput(
        token_ids=np.concatenate([np.asarray(part.token_ids, np.int32) for part in parts]),
        seq_lens=np.diff(starts).astype(np.int32),
        context_lens=np.array([part.context for part in parts], np.int32),
        page_indptr=np.cumsum([0] + [len(ids) for ids in pages]).astype(np.int32),
        page_ids=np.concatenate(pages),
        logit_rows=np.array([row for _, row, _ in sampled], np.int32),
        temperature=np.array([part.sampling.temperature for part, _, _ in sampled], np.float32),
        top_k=np.array([part.sampling.top_k for part, _, _ in sampled], np.int32),
        top_p=np.array([part.sampling.top_p for part, _, _ in sampled], np.float32),
        seed=np.array([part.sampling.seed for part, _, _ in sampled], np.uint64),
        output_position=np.array([position for _, _, position in sampled], np.int32),
        want_logits=np.array([part.want_logits for part, _, _ in sampled], np.bool_),
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """What a runner gave for a run of positions."""

    tokens: NDArray[np.int32]  # [rows]
    logprobs: NDArray[np.float32]  # [rows]
    logits: NDArray[np.float32]  # [rows, vocab]


def teacher_forced(
    run: RunStep,
    token_ids: Sequence[int],
    chunks: Sequence[int],
    sampling: Sampling = Sampling(),
) -> Rows:
    """All rows of a sequence that is fed in chunks of these sizes, the last size repeated."""
    pages = range(pages_of(len(token_ids)))
    outputs: list[StepOutput] = []
    start = 0
    while start < len(token_ids):
        size = chunks[min(len(outputs), len(chunks) - 1)]
        ids = token_ids[start : start + size]
        part = Part(ids, start, pages, range(len(ids)), sampling=sampling)
        outputs.append(run(step_input([part])))
        start += len(ids)
    return Rows(
        np.concatenate([output.tokens for output in outputs]),
        np.concatenate([output.logprobs for output in outputs]),
        np.concatenate([output.logits for output in outputs]),
    )


def generate(
    run: RunStep, prompt: Sequence[int], num_outputs: int, sampling: Sampling = Sampling()
) -> list[int]:
    """The tokens that follow a prompt, one decode step each, without looking at logits."""
    pages = range(pages_of(len(prompt) + num_outputs))
    ids = list(prompt)
    cached = 0
    for _ in range(num_outputs):
        rows = ids[cached:]
        part = Part(rows, cached, pages, [len(rows) - 1], want_logits=False, sampling=sampling)
        cached = len(ids)
        ids.append(int(run(step_input([part])).tokens[0]))
    return ids[len(prompt) :]
