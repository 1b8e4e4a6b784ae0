"""The fake runner is only worth something if each mistake of an engine changes what it returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from unit.engine.fake_runner import FakeRunner, reference_tokens

from terrazzo.step import PAGE_TOKENS, StepInput, StepOutput

PROMPT = list(range(1, 60)) + list(range(1, 60))


def step_of(
    token_ids: Sequence[int], *, context: int, pages: Sequence[int], **changes: Any
) -> StepInput:
    """A greedy step of one sequence that samples at its last row."""
    batch = StepInput(
        token_ids=np.array(token_ids, np.int32),
        seq_lens=np.array([len(token_ids)], np.int32),
        context_lens=np.array([context], np.int32),
        page_indptr=np.array([0, len(pages)], np.int32),
        page_ids=np.array(pages, np.int32),
        logit_rows=np.array([len(token_ids) - 1], np.int32),
        temperature=np.zeros(1, np.float32),
        top_k=np.zeros(1, np.int32),
        top_p=np.ones(1, np.float32),
        seed=np.zeros(1, np.uint64),
        output_position=np.zeros(1, np.int32),
        want_logits=np.zeros(1, np.bool_),
    )
    return dataclasses.replace(batch, **changes)


def sampled(output: StepOutput) -> int:
    return int(output.tokens[0])


def test_tokens_follow_the_definition() -> None:
    runner, expected = FakeRunner(), reference_tokens(PROMPT, 3)
    pages = [5, 0, 3]
    assert sampled(runner.step(step_of(PROMPT, context=0, pages=pages))) == expected[0]
    for i in range(2):
        batch = step_of([expected[i]], context=len(PROMPT) + i, pages=pages)
        assert sampled(runner.step(batch)) == expected[i + 1]


def test_a_token_may_be_the_one_sampled_before() -> None:
    runner, expected = FakeRunner(), reference_tokens(PROMPT, 2)
    runner.step(step_of(PROMPT, context=0, pages=[1, 2]))
    assert sampled(runner.step(step_of([-1], context=len(PROMPT), pages=[1, 2]))) == expected[1]


def test_chunks_change_nothing() -> None:
    runner = FakeRunner()
    for start in range(0, len(PROMPT), 7):
        batch = step_of(PROMPT[start : start + 7], context=start, pages=[1, 2])
        token = sampled(runner.step(batch))
    assert token == reference_tokens(PROMPT, 1)[0]


def test_sampling_depends_on_seed_and_position() -> None:
    seen = set()
    for seed in (0, 1, 2**64 - 1):
        for position in range(4):
            batch = step_of(
                PROMPT,
                context=0,
                pages=[0, 1],
                temperature=np.ones(1, np.float32),
                seed=np.array([seed], np.uint64),
                output_position=np.array([position], np.int32),
            )
            seen.add(sampled(FakeRunner(vocab_size=10**6).step(batch)))
    assert len(seen) == 12


def test_logits_for_rows_that_ask() -> None:
    wanted = np.ones(1, np.bool_)
    output = FakeRunner().step(step_of(PROMPT, context=0, pages=[0, 1], want_logits=wanted))
    assert output.logits.shape == (1, 64)
    assert output.logits.argmax() == output.tokens[0]


def test_a_page_of_another_sequence_changes_the_token() -> None:
    runner = FakeRunner(vocab_size=10**6)
    runner.step(step_of(PROMPT, context=0, pages=[0, 1]))
    runner.step(step_of(PROMPT[1:], context=0, pages=[2, 3]))
    right, wrong = (
        sampled(runner.step(step_of([9], context=len(PROMPT) - 1, pages=pages)))
        for pages in ([2, 3], [0, 3])
    )
    assert right != wrong


def test_a_row_that_was_never_written_is_an_error() -> None:
    runner = FakeRunner()
    runner.step(step_of(PROMPT, context=0, pages=[0, 1]))
    with pytest.raises(AssertionError, match="never written"):
        runner.step(step_of([9], context=len(PROMPT) + 1, pages=[0, 1]))
    runner.step(step_of([9], context=0, pages=[1]))  # a new owner
    with pytest.raises(AssertionError, match="never written"):
        runner.step(step_of([9], context=len(PROMPT), pages=[0, 1]))


def test_pages_of_a_step_are_not_shared() -> None:
    with pytest.raises(AssertionError, match="a page twice"):
        FakeRunner().step(step_of(PROMPT, context=0, pages=[1, 1]))
    assert len(PROMPT) > PAGE_TOKENS
