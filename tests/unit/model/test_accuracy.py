"""Logits and greedy tokens of random Llamas, against `transformers` in float32."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray
from tolerances import LOGITS_OVER_BF16, greedy_margin, logprob_abs
from transformers import PreTrainedModel
from unit.model.devices import DEVICES, machine
from unit.model.drive import Rows, generate, teacher_forced
from unit.model.reference import (
    ReferenceLogits,
    one_torch_thread,
    open_fp32,
    reference_logits,
    relative_distance,
    top_two_margins,
)
from unit.model.shapes import MAX_POSITION, SHAPES, Shape

from terrazzo.models.hf_folder import HfFolder
from terrazzo.runner import ModelRunner

NUM_TOKENS = 300  # three row blocks of 128, five pages of 64
NUM_GREEDY = 40
SPLIT_TOKENS = 128  # attention over the test's contexts is split in up to three
ODD_CHUNKS = [1, 62, 2, 100, 1, 17, 117]  # edges on, before and after those of pages


@dataclass(frozen=True, slots=True)
class Model:
    """A saved model, its reference, and the reference's logits of `token_ids`."""

    shape: Shape
    checkpoint: HfFolder
    reference: PreTrainedModel
    token_ids: list[int]
    logits: ReferenceLogits

    def runner(
        self, device: str, gpus: int, split_tokens: int, o_proj: str = "replicated"
    ) -> ModelRunner:
        return ModelRunner(
            self.checkpoint,
            **machine(device, gpus=gpus),
            o_proj=o_proj,
            max_batch_tokens=NUM_TOKENS,
            max_sequences=NUM_TOKENS,
            max_logit_rows=NUM_TOKENS,
            num_pages=8,
            split_tokens=split_tokens,
        )


@pytest.fixture(scope="module", params=SHAPES, ids=lambda shape: shape.name)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Model]:
    shape: Shape = request.param
    folder = shape.save(tmp_path_factory.mktemp("model"))
    token_ids = np.random.default_rng(0).integers(0, shape.vocab, NUM_TOKENS).tolist()
    with one_torch_thread():
        reference = open_fp32(folder)
        logits = ReferenceLogits.of(reference, token_ids)
        yield Model(shape, HfFolder(folder), reference, token_ids, logits)


def check_logits(seen: Rows, expected: ReferenceLogits) -> None:
    distance = relative_distance(seen.logits, expected.fp32)
    assert distance <= LOGITS_OVER_BF16 * expected.bf16_distance
    # Row by row too: one bad row among hundreds would vanish in the norm of all of them.
    errors = np.linalg.norm(seen.logits - expected.fp32, axis=1)
    norms = np.linalg.norm(expected.fp32, axis=1)
    bf16_errors = np.linalg.norm(expected.bf16 - expected.fp32, axis=1)
    assert np.max(errors / norms) <= LOGITS_OVER_BF16 * np.max(bf16_errors / norms)


def check_samples(seen: Rows) -> None:
    """Tokens and log-probabilities follow from the logits that came with them."""
    np.testing.assert_array_equal(seen.tokens, seen.logits.argmax(axis=1))
    exact = seen.logits.astype(np.float64)
    sums = np.exp(exact - exact.max(axis=1, keepdims=True)).sum(axis=1)
    tolerance = logprob_abs(exact.shape[1], float(np.abs(exact).max()))
    np.testing.assert_allclose(seen.logprobs, -np.log(sums), rtol=0, atol=tolerance)


@pytest.mark.parametrize("device", DEVICES)
def test_logits(model: Model, device: str, subtests: pytest.Subtests) -> None:
    choices = [(gpus, "replicated") for gpus in model.shape.degrees]
    choices += [(gpus, "sharded") for gpus in model.shape.degrees if gpus > 1]
    for gpus, o_proj in choices:
        runner = model.runner(device, gpus, SPLIT_TOKENS, o_proj)
        assert runner.o_proj == o_proj
        whole = teacher_forced(runner.step, model.token_ids, [NUM_TOKENS])
        with subtests.test("whole", gpus=gpus, o_proj=o_proj):
            check_logits(whole, model.logits)
            check_samples(whole)
        with subtests.test("chunked", gpus=gpus, o_proj=o_proj):
            seen = teacher_forced(runner.step, model.token_ids, ODD_CHUNKS)
            np.testing.assert_array_equal(seen.logits, whole.logits)
            np.testing.assert_array_equal(seen.logprobs, whole.logprobs)


@pytest.mark.parametrize("device", DEVICES)
def test_logits_without_splits(model: Model, device: str) -> None:
    runner = model.runner(device, gpus=1, split_tokens=MAX_POSITION)
    check_logits(teacher_forced(runner.step, model.token_ids, ODD_CHUNKS), model.logits)


@pytest.mark.parametrize("device", DEVICES)
def test_greedy_continuation(model: Model, device: str) -> None:
    """Each token that decoding chose is the best of float32, where that is clearly ahead."""
    gpus = model.shape.degrees[-1]
    runner = model.runner(device, gpus, split_tokens=SPLIT_TOKENS)
    prompt = model.token_ids[:100]
    tokens = generate(runner.step, prompt, NUM_GREEDY)
    assert len(tokens) == NUM_GREEDY
    expected = reference_logits(model.reference, prompt + tokens)[99:-1]
    clear = top_two_margins(expected) > greedy_margin(model.logits.bf16_error_rms)
    assert clear.sum() >= 5, "too few clear tokens to say anything"
    np.testing.assert_array_equal(np.array(tokens)[clear], expected.argmax(axis=1)[clear])


def test_a_wrong_weight_is_seen(model: Model) -> None:
    """The bound is tight: one matrix of one layer with its rows rolled by one breaks it."""

    class Rolled:
        config = model.checkpoint.config

        def names(self) -> list[str]:
            return list(model.checkpoint.names())

        def tensor(self, name: str) -> NDArray[np.uint16]:
            bits = model.checkpoint.tensor(name)
            return np.roll(bits, 1, axis=0) if name == "model.layers.1.mlp.up_proj.weight" else bits

    damaged = ModelRunner(
        Rolled(), num_sms=2, max_batch_tokens=NUM_TOKENS, max_logit_rows=NUM_TOKENS, num_pages=8
    )
    seen = teacher_forced(damaged.step, model.token_ids[:64], [64])
    expected = ReferenceLogits(model.logits.fp32[:64], model.logits.bf16[:64])
    with pytest.raises(AssertionError):
        check_logits(seen, expected)
