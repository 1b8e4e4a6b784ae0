"""Layers of the size of Llama-3.1-8B on the GPU, against torch in float32 and in bfloat16."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tolerances import LOGITS_OVER_BF16
from transformers import LlamaConfig, LlamaForCausalLM
from unit.model.drive import Rows, teacher_forced
from unit.model.reference import ReferenceLogits, relative_distance

from terrazzo.models.config import ModelConfig, RopeScaling
from terrazzo.models.dummy import DummyCheckpoint
from terrazzo.runner import ModelRunner

pytestmark = [pytest.mark.t2_gpu, pytest.mark.slow]

NUM_TOKENS = 700
ODD_CHUNKS = [1, 127, 65, 1, 300, 7, 199]
CONFIG = ModelConfig(
    num_layers=6,
    hidden_size=4096,
    intermediate_size=14336,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=32000,  # of 128256: the rest would only take memory
    rms_norm_eps=1e-5,
    rope_theta=500000.0,
    rope_scaling=RopeScaling(8.0, 1.0, 4.0, 512),
    max_position=4096,
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_ids=(),
)


def torch_model(checkpoint: DummyCheckpoint) -> LlamaForCausalLM:
    """The same weights in transformers, float32 on the GPU."""
    scaling = CONFIG.rope_scaling
    assert scaling is not None
    config = LlamaConfig(
        hidden_size=CONFIG.hidden_size,
        intermediate_size=CONFIG.intermediate_size,
        num_hidden_layers=CONFIG.num_layers,
        num_attention_heads=CONFIG.num_heads,
        num_key_value_heads=CONFIG.num_kv_heads,
        head_dim=CONFIG.head_dim,
        vocab_size=CONFIG.vocab_size,
        rms_norm_eps=CONFIG.rms_norm_eps,
        max_position_embeddings=CONFIG.max_position,
        tie_word_embeddings=False,
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": CONFIG.rope_theta,
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_position,
        },
    )
    with torch.device("cuda"):
        model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            bits = torch.from_numpy(checkpoint.tensor(name).view(np.int16))
            weight.copy_(bits.view(torch.bfloat16))
    return model


@dataclass(frozen=True, slots=True)
class Case:
    runner: ModelRunner
    token_ids: list[int]
    logits: ReferenceLogits


@pytest.fixture(scope="module")
def case() -> Case:
    assert not torch.backends.cuda.matmul.allow_tf32
    checkpoint = DummyCheckpoint(CONFIG)
    token_ids = np.random.default_rng(0).integers(0, CONFIG.vocab_size, NUM_TOKENS).tolist()
    logits = ReferenceLogits.of(torch_model(checkpoint), token_ids)
    torch.cuda.empty_cache()
    runner = ModelRunner(
        checkpoint,
        device="cuda",
        max_batch_tokens=NUM_TOKENS,
        max_sequences=NUM_TOKENS,
        max_logit_rows=NUM_TOKENS,
        max_model_len=1024,
        num_pages=16,
        split_tokens=256,
    )
    return Case(runner, token_ids, logits)


@pytest.fixture(scope="module")
def whole(case: Case) -> Rows:
    return teacher_forced(case.runner.step, case.token_ids, [NUM_TOKENS])


def test_logits(case: Case, whole: Rows) -> None:
    distance = relative_distance(whole.logits, case.logits.fp32)
    print(f"distance {distance:.4e}, of torch in bfloat16 {case.logits.bf16_distance:.4e}")
    assert distance <= LOGITS_OVER_BF16 * case.logits.bf16_distance


def test_each_row(case: Case, whole: Rows) -> None:
    errors = np.linalg.norm(whole.logits - case.logits.fp32, axis=1)
    bf16_errors = np.linalg.norm(case.logits.bf16 - case.logits.fp32, axis=1)
    assert np.max(errors) <= LOGITS_OVER_BF16 * np.max(bf16_errors)


def test_chunks_change_no_bit(case: Case, whole: Rows) -> None:
    seen = teacher_forced(case.runner.step, case.token_ids, ODD_CHUNKS)
    np.testing.assert_array_equal(seen.logits, whole.logits)
