"""Models that several tests of this folder read."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.models.make_random_llama import make_random_llama

from terrazzo.env import cache_dir
from terrazzo.models.default_model import default_gguf
from terrazzo.models.errors import ModelNotFoundError


@pytest.fixture(scope="session")
def small_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small model in one file, with a tokenizer; copy it before changing it."""
    return make_random_llama(
        tmp_path_factory.mktemp("small_llama"),
        hidden=96,
        heads=3,
        kv_heads=1,
        head_dim=64,
        intermediate=160,
        layers=2,
        vocab=300,
        tie=False,
        seed=1,
        with_tokenizer=True,
    )


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The default model's GGUF file, fetched once into the user's cache."""
    try:
        return default_gguf(cache_dir())
    except ModelNotFoundError as error:
        pytest.skip(f"needs the default model: {error}")
