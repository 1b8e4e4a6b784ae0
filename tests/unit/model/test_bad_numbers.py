"""A request whose activations turn to NaN or infinity leaves the others as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from unit.engine.random_checkpoint import RandomCheckpoint, small_config
from unit.model.devices import DEVICES, machine
from unit.model.drive import Part, Rows, Sampling, step_input, teacher_forced

from terrazzo.runner import ModelRunner

BAD_TOKENS = {"nan": (7, 0x7FC0), "infinity": (8, 0x7F80), "largest": (9, 0x7F7F)}
GOOD = [list(range(20, 50)), [11] * 70]
NUM_PAGES = 8


class BadEmbedding(RandomCheckpoint):
    """Some tokens' embeddings are no numbers, or too large for what follows."""

    def tensor(self, name: str) -> NDArray[np.uint16]:
        bits = super().tensor(name)
        if name == "model.embed_tokens.weight":
            for token, value in BAD_TOKENS.values():
                bits[token] = value
        return bits


@pytest.fixture(scope="module", params=DEVICES)
def runner(request: pytest.FixtureRequest) -> ModelRunner:
    # Not tied: the logits of other rows must not depend on the bad embeddings.
    config = replace(small_config(), tie_word_embeddings=False)
    return ModelRunner(
        BadEmbedding(config), max_model_len=128, num_pages=NUM_PAGES, **machine(request.param)
    )


def together(runner: ModelRunner, bad: list[int], sampling: Sampling) -> list[Rows]:
    """Rows of the good sequences, in a step with a bad one between them."""
    parts = [
        Part(GOOD[0], 0, [0], range(len(GOOD[0]))),
        Part(bad, 0, [2, 3], range(len(bad)), sampling=sampling),
        Part(GOOD[1], 0, [4, 5], range(len(GOOD[1]))),
    ]
    output = runner.step(step_input(parts))
    ends = np.cumsum([0, *(len(part.token_ids) for part in parts)])
    rows = [slice(ends[i], ends[i + 1]) for i in (0, 2)]
    return [Rows(output.tokens[r], output.logprobs[r], output.logits[r]) for r in rows]


@pytest.mark.parametrize("kind", BAD_TOKENS)
@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(1.0, seed=1), Sampling(1.0, top_k=5), Sampling(1.0, top_p=0.5)],
    ids=["greedy", "temperature", "top-k", "top-p"],
)
def test_neighbours_and_successors(runner: ModelRunner, kind: str, sampling: Sampling) -> None:
    token, _ = BAD_TOKENS[kind]
    alone = [teacher_forced(runner.step, ids, [len(ids)]) for ids in GOOD]
    bad = [12, token, 13, 14] * 20
    for seen, expected in zip(together(runner, bad, sampling), alone, strict=True):
        np.testing.assert_array_equal(seen.logits, expected.logits)
        np.testing.assert_array_equal(seen.tokens, expected.tokens)
        np.testing.assert_array_equal(seen.logprobs, expected.logprobs)
    # Those who get its pages next, whole and partly filled.
    for ids, expected in zip(GOOD, alone, strict=True):
        part = Part(ids, 0, [3, 2], range(len(ids)))
        np.testing.assert_array_equal(runner.step(step_input([part])).logits, expected.logits)


def test_the_bad_rows_are_bad(runner: ModelRunner) -> None:
    """Else the test above would say nothing.

    Nothing is said of the row before: a tensor core multiplies its masked probabilities, zero, by
    the values of the whole page, and zero times NaN is NaN. That stays within the request.
    """
    token, _ = BAD_TOKENS["nan"]
    output = runner.step(step_input([Part([12, token, 13], 0, [0], [0, 1, 2])]))
    assert np.isnan(output.logits[1:]).any(axis=1).all()
