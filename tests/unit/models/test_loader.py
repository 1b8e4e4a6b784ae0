"""Models are opened whole: weights, tokenizer and configuration that belong together."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from unit.models.make_random_llama import make_random_llama
from unit.models.write_gguf import write_gguf

from terrazzo.models.bf16 import to_bf16_bits
from terrazzo.models.checkpoint import CheckpointError, expected_tensors
from terrazzo.models.errors import ModelError, TokenizerError
from terrazzo.models.loader import open_checkpoint, open_model


@pytest.fixture
def folder(small_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_llama, tmp_path / "model"))


def test_a_folder_is_opened(small_llama: Path) -> None:
    opened = open_model(small_llama)
    assert opened.path == small_llama
    assert opened.config.vocab_size == 300
    assert opened.tokenizer.encode("a") == [opened.tokenizer.token_id("a")]
    assert opened.eos_token_ids == (257,)


def test_end_tokens_of_both_sources_count(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 257]}))
    assert open_model(folder).eos_token_ids == (7, 257)


def test_a_gguf_file_is_opened(small_llama: Path, tmp_path: Path) -> None:
    write_gguf(small_llama, tmp_path / "model.gguf")
    opened = open_model(tmp_path / "model.gguf")
    source = open_model(small_llama)
    for name in expected_tensors(source.config):
        np.testing.assert_array_equal(
            opened.checkpoint.tensor(name), source.checkpoint.tensor(name), err_msg=name
        )
    assert opened.tokenizer.decode(opened.tokenizer.encode("the")) == "the"


def test_weights_without_a_tokenizer_are_opened_as_a_checkpoint(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert open_checkpoint(folder).config.vocab_size == 300
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is missing"):
        open_model(folder)


def test_a_checkpoint_that_disagrees_with_its_config_is_not_opened(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 301}))
    for opener in (open_model, open_checkpoint):
        with pytest.raises(CheckpointError, match=r"embed_tokens.*expected shape \(301, 96\)"):
            opener(folder)


def test_a_tokenizer_larger_than_the_model_is_told(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sizes = {"hidden": 64, "heads": 1, "kv_heads": 1, "head_dim": 64, "intermediate": 64}
    small = make_random_llama(tmp_path / "small", **sizes, layers=1, vocab=200, tie=True, seed=1)
    shutil.copy(folder / "tokenizer.json", small / "tokenizer.json")
    with caplog.at_level(logging.WARNING, "terrazzo.models"):
        open_model(small)
    assert "the tokenizer has 258 tokens, the model only 200" in caplog.text


def test_all_errors_have_one_base(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        open_model(tmp_path)
    with pytest.raises(ModelError):
        open_model(tmp_path / "none")


@pytest.mark.slow
def test_smollm2_weights_equal_the_reader_of_transformers(smollm2_gguf: Path) -> None:
    opened = open_model(smollm2_gguf)
    config = opened.config
    assert (config.hidden_size, config.num_heads, config.num_kv_heads) == (576, 9, 3)
    assert config.tie_word_embeddings
    reference = AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32
    )
    weights = reference.state_dict()
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    names += [n for n in expected_tensors(config) if n.startswith("model.layers.17.")]
    for name in names:
        np.testing.assert_array_equal(
            opened.checkpoint.tensor(name), to_bf16_bits(weights[name].numpy()), err_msg=name
        )
    inv_freq = reference.model.rotary_emb.inv_freq.numpy()
    np.testing.assert_allclose(config.inv_freq(), inv_freq, rtol=2.0**-23, atol=0)
