"""The default model: logits of real text against `transformers`, and sensible answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tolerances import LOGITS_OVER_BF16, greedy_margin
from transformers import PreTrainedModel
from unit.model.devices import DEVICES
from unit.model.drive import Rows, generate, teacher_forced
from unit.model.prose import PROSE
from unit.model.reference import (
    ReferenceLogits,
    one_torch_thread,
    open_fp32,
    reference_logits,
    relative_distance,
    top_two_margins,
)

from terrazzo.env import cache_dir
from terrazzo.models.default_model import default_gguf
from terrazzo.models.errors import ModelNotFoundError
from terrazzo.models.loader import OpenedModel, open_model
from terrazzo.runner import ModelRunner

NUM_TOKENS = 320
NUM_SINGLE = 70  # fed token by token: across the edge of a page
NUM_GREEDY = 48


@dataclass(frozen=True, slots=True)
class Reference:
    opened: OpenedModel
    model: PreTrainedModel
    token_ids: list[int]
    logits: ReferenceLogits


@dataclass(frozen=True, slots=True)
class SmolLM2:
    runner: ModelRunner
    reference: PreTrainedModel
    token_ids: list[int]
    logits: ReferenceLogits


@pytest.fixture(scope="module")
def gguf() -> Path:
    try:
        return default_gguf(cache_dir())
    except ModelNotFoundError as error:
        pytest.skip(f"needs the default model: {error}")


@pytest.fixture(scope="module")
def reference(gguf: Path) -> Iterator[Reference]:
    opened = open_model(gguf)
    token_ids = opened.tokenizer.encode(PROSE)[:NUM_TOKENS]
    assert len(token_ids) == NUM_TOKENS
    with one_torch_thread():
        model = open_fp32(gguf)
        yield Reference(opened, model, token_ids, ReferenceLogits.of(model, token_ids))


@pytest.fixture(scope="module", params=DEVICES)
def smollm2(request: pytest.FixtureRequest, reference: Reference) -> SmolLM2:
    runner = ModelRunner(
        reference.opened.checkpoint,
        device=request.param,
        max_batch_tokens=NUM_TOKENS,
        max_sequences=NUM_TOKENS,
        max_logit_rows=NUM_TOKENS,
        max_model_len=1024,
        num_pages=16,
    )
    return SmolLM2(runner, reference.model, reference.token_ids, reference.logits)


@pytest.fixture(scope="module")
def whole(smollm2: SmolLM2) -> Rows:
    """The text in one piece."""
    return teacher_forced(smollm2.runner.step, smollm2.token_ids, [NUM_TOKENS])


def test_logits_of_real_text(smollm2: SmolLM2, whole: Rows) -> None:
    distance = relative_distance(whole.logits, smollm2.logits.fp32)
    assert distance <= LOGITS_OVER_BF16 * smollm2.logits.bf16_distance


def test_plain_english_is_likely(smollm2: SmolLM2, whole: Rows) -> None:
    """A model that misread its weights or tokens would find it as surprising as noise."""
    next_ids = smollm2.token_ids[1:]
    logits = whole.logits[:-1].astype(np.float64)
    logprobs = logits[range(len(next_ids)), next_ids] - np.log(np.exp(logits).sum(axis=1))
    noise = -np.log(logits.shape[1])
    assert logprobs.mean() > noise / 3


def test_chunks_change_no_bit(smollm2: SmolLM2, whole: Rows) -> None:
    seen = teacher_forced(smollm2.runner.step, smollm2.token_ids, [1, 62, 2, 63, 129, 7])
    np.testing.assert_array_equal(seen.logits, whole.logits)


def test_single_tokens_change_no_bit(smollm2: SmolLM2, whole: Rows) -> None:
    seen = teacher_forced(smollm2.runner.step, smollm2.token_ids[:NUM_SINGLE], [1])
    np.testing.assert_array_equal(seen.logits, whole.logits[:NUM_SINGLE])
    np.testing.assert_array_equal(seen.logprobs, whole.logprobs[:NUM_SINGLE])


def test_greedy_continuation(smollm2: SmolLM2) -> None:
    """Each token that decoding chose is the best of float32, where that is clearly ahead."""
    prompt = smollm2.token_ids[:100]
    tokens = generate(smollm2.runner.step, prompt, NUM_GREEDY)
    expected = reference_logits(smollm2.reference, prompt + tokens)[99:-1]
    clear = top_two_margins(expected) > greedy_margin(smollm2.logits.bf16_error_rms)
    assert clear.sum() >= 5, "too few clear tokens to say anything"
    np.testing.assert_array_equal(np.array(tokens)[clear], expected.argmax(axis=1)[clear])
