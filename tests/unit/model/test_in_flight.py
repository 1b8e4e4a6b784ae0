"""A step in two halves: submitted behind the one that runs, collected in order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from unit.engine.random_checkpoint import RandomCheckpoint, small_config
from unit.model.devices import DEVICES, machine
from unit.model.drive import Part, Sampling, generate, step_input

from terrazzo.runner import ModelRunner
from terrazzo.step import StepInput, StepTicket

NUM_OUTPUTS = 70  # across the edge of a page
PROMPTS = ([5, 6, 7], [9], list(range(20, 90)))
SAMPLINGS = (Sampling(), Sampling(1.0, seed=3), Sampling(0.8, top_k=5, seed=4))


@pytest.fixture(scope="module", params=DEVICES)
def runner(request: pytest.FixtureRequest) -> ModelRunner:
    return ModelRunner(
        RandomCheckpoint(small_config()),
        max_model_len=256,
        num_pages=12,
        max_in_flight=2,
        **machine(request.param),
    )


@pytest.fixture(autouse=True)
def nothing_in_flight(runner: ModelRunner) -> Iterator[None]:
    """Each test collects what it submitted."""
    yield
    runner.step(one_token())


def one_token(token: int = 3) -> StepInput:
    return step_input([Part([token], 0, [11], [0])])


def batch_of(rows: list[list[int]], contexts: list[int]) -> StepInput:
    """Each sequence on four pages of its own, its last row sampled."""
    parts = [
        Part(ids, context, range(4 * i, 4 * i + 4), [len(ids) - 1], False, sampling)
        for i, (ids, context, sampling) in enumerate(zip(rows, contexts, SAMPLINGS, strict=False))
    ]
    return step_input(parts)


def test_two_in_flight(runner: ModelRunner) -> None:
    assert runner.max_in_flight == 2


def test_running_ahead_changes_nothing(runner: ModelRunner) -> None:
    """Each step names the tokens of the step before it, which is not collected yet."""
    # Rows of one token come first: the prompt of one is sampled in row 0, and so on.
    order = sorted(range(len(PROMPTS)), key=lambda i: len(PROMPTS[i]) > 1)
    expected = [
        generate(runner.step, PROMPTS[i], NUM_OUTPUTS, SAMPLINGS[slot])
        for slot, i in enumerate(order)
    ]
    prompts = [list(PROMPTS[i]) for i in order]
    tickets = [runner.submit(batch_of(prompts, [0] * len(prompts)))]
    seen: list[list[int]] = [[] for _ in prompts]

    def collect() -> None:
        for outputs, token in zip(seen, runner.collect(tickets.pop(0)).tokens, strict=True):
            outputs.append(int(token))

    for step in range(NUM_OUTPUTS - 1):
        contexts = [len(prompt) + step for prompt in prompts]
        tickets.append(runner.submit(batch_of([[-1], [-2], [-3]], contexts)))
        collect()
    collect()
    assert seen == expected


def test_the_halves_are_a_step(runner: ModelRunner) -> None:
    whole = runner.step(step_input([Part([5, 6, 7], 0, [0], [0, 2])]))
    halves = runner.collect(runner.submit(step_input([Part([5, 6, 7], 0, [0], [0, 2])])))
    np.testing.assert_array_equal(halves.tokens, whole.tokens)
    np.testing.assert_array_equal(halves.logprobs, whole.logprobs)
    np.testing.assert_array_equal(halves.logits, whole.logits)


def test_results_outlive_later_steps(runner: ModelRunner) -> None:
    output = runner.collect(runner.submit(one_token()))
    kept = output.logits.copy()
    for token in range(4, 10):
        runner.step(one_token(token))
    np.testing.assert_array_equal(output.logits, kept)


def test_no_more_than_two(runner: ModelRunner) -> None:
    expected = [runner.step(one_token(token)).tokens for token in (1, 2)]
    tickets = [runner.submit(one_token(token)) for token in (1, 2)]
    with pytest.raises(ValueError, match="at most 2 steps in flight"):
        runner.submit(one_token(4))
    with pytest.raises(ValueError, match="one step at a time"):
        runner.step(one_token(4))
    seen = [runner.collect(ticket).tokens for ticket in tickets]
    np.testing.assert_array_equal(seen, expected)


def test_in_order_and_once(runner: ModelRunner) -> None:
    first, second = (runner.submit(one_token(token)) for token in (1, 2))
    with pytest.raises(ValueError, match="not that of the oldest"):
        runner.collect(second)
    runner.collect(first)
    with pytest.raises(ValueError, match="not that of the oldest"):
        runner.collect(first)
    runner.collect(second)
    with pytest.raises(ValueError, match="not that of the oldest"):
        runner.collect(StepTicket(10**6))


def test_a_refused_step_leaves_those_in_flight(runner: ModelRunner) -> None:
    expected = runner.step(one_token()).tokens
    ticket = runner.submit(one_token())
    for token in (300, -2):  # outside the vocabulary; a row that was not sampled
        with pytest.raises(ValueError, match=r"\[(lower|step)\] row 0"):
            runner.submit(one_token(token))
    after = runner.submit(one_token(-1))
    seen = runner.collect(ticket).tokens
    np.testing.assert_array_equal(seen, expected)
    assert len(runner.collect(after).tokens) == 1
