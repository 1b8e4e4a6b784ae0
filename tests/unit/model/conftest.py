"""Models that the tests of this folder open."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.models.make_random_llama import make_random_llama

from terrazzo.env import cache_dir
from terrazzo.models.default_model import default_gguf
from terrazzo.models.errors import ModelNotFoundError


@pytest.fixture(scope="session")
def small_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model and a tokenizer that has a token for each byte."""
    return make_random_llama(
        tmp_path_factory.mktemp("small_llama"),
        hidden=136,
        heads=8,
        kv_heads=4,
        head_dim=64,
        intermediate=200,
        layers=2,
        vocab=300,
        tie=False,
        seed=2,
        max_position=1024,
        with_tokenizer=True,
    )


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The default model's file, fetched once into the user's cache."""
    try:
        return default_gguf(cache_dir())
    except ModelNotFoundError as error:
        pytest.skip(f"needs the default model: {error}")
