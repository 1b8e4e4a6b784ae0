"""Random weights of a configuration: the tensors it implies, finite, reproducible."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from unit.engine.random_checkpoint import small_config
from unit.models.make_random_llama import make_random_llama

from terrazzo.models.bf16 import from_bf16_bits
from terrazzo.models.checkpoint import expected_tensors, validate
from terrazzo.models.dummy import DummyCheckpoint
from terrazzo.models.errors import CheckpointError
from terrazzo.models.loader import open_model

CONFIG = small_config()


def test_it_has_what_the_configuration_implies() -> None:
    checkpoint = DummyCheckpoint(CONFIG)
    validate(checkpoint)
    for name, shape in expected_tensors(CONFIG).items():
        bits = checkpoint.tensor(name)
        assert bits.shape == shape
        assert bits.dtype == np.uint16
        assert bits.flags.c_contiguous
    with pytest.raises(CheckpointError, match="no tensor lm_head"):
        checkpoint.tensor("lm_head.weight")


def test_values() -> None:
    checkpoint = DummyCheckpoint(CONFIG)
    gate = from_bf16_bits(checkpoint.tensor("model.layers.0.mlp.gate_proj.weight"))
    assert abs(gate.mean()) < 0.01 * gate.std() * np.sqrt(gate.size) / 10
    np.testing.assert_allclose(gate.std(), CONFIG.hidden_size**-0.5, rtol=0.05)
    norm = from_bf16_bits(checkpoint.tensor("model.norm.weight"))
    np.testing.assert_allclose(norm.mean(), 1.0, atol=0.05)
    assert len({row.tobytes() for row in gate}) == len(gate)


def test_the_same_again_and_another_by_name() -> None:
    one, two = DummyCheckpoint(CONFIG), DummyCheckpoint(CONFIG)
    names = [f"model.layers.{layer}.mlp.gate_proj.weight" for layer in range(2)]
    np.testing.assert_array_equal(one.tensor(names[0]), two.tensor(names[0]))
    assert (one.tensor(names[0]) != one.tensor(names[1])).mean() > 0.9


def test_a_folder_without_weights(tmp_path: Path) -> None:
    folder = make_random_llama(
        tmp_path / "model",
        hidden=64,
        heads=1,
        kv_heads=1,
        head_dim=64,
        intermediate=64,
        layers=1,
        vocab=300,
        tie=True,
        seed=0,
        with_tokenizer=True,
    )
    weights = folder / "model.safetensors"
    shutil.move(weights, tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        open_model(folder)
    opened = open_model(folder, "dummy")
    assert isinstance(opened.checkpoint, DummyCheckpoint)
    assert opened.config.num_layers == 1
    with pytest.raises(ValueError, match="load_format: expected auto or dummy, got 'fast'"):
        open_model(folder, "fast")
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match="expected a folder"):
        open_model(tmp_path / "x.gguf", "dummy")
