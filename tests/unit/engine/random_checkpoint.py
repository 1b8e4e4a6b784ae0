"""A small Llama with random weights, in memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from terrazzo.models.checkpoint import expected_tensors
from terrazzo.models.config import ModelConfig


def small_config() -> ModelConfig:
    """Sizes that are no multiple of a tile; three query heads share a KV head."""
    return ModelConfig(
        num_layers=2,
        hidden_size=136,
        intermediate_size=200,
        num_heads=6,
        num_kv_heads=2,
        head_dim=64,
        vocab_size=300,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
        rope_scaling=None,
        max_position=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_ids=(0,),
    )


class RandomCheckpoint:
    """Keeps the Checkpoint protocol; a tensor depends on its name alone."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self._shapes = expected_tensors(config)

    def names(self) -> Sequence[str]:
        return list(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def tensor(self, name: str) -> NDArray[np.uint16]:
        shape = self.shape(name)
        values = np.random.default_rng(list(name.encode())).standard_normal(shape)
        scaled = values * shape[-1] ** -0.5 if len(shape) == 2 else 1 + values / 10
        bits: NDArray[np.uint16] = (scaled.astype(np.float32).view(np.uint32) >> 16).astype("u2")
        return bits
