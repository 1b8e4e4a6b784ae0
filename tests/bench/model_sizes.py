"""Sizes of the models that benchmarks run. Importing needs neither the package nor torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terrazzo._core import ModelShape

HEAD_DIM = 128
BF16_BYTES = 2


@dataclass(frozen=True, slots=True)
class Sizes:
    """A model's sizes; `name` as in the report."""

    name: str
    hidden: int
    intermediate: int
    num_heads: int
    num_kv_heads: int
    num_layers: int = 1
    vocab: int = 256

    @property
    def gemms(self) -> dict[str, tuple[int, int]]:
        """Instruction -> (N, K): output columns and depth of one layer's matrix."""
        attention = self.num_heads * HEAD_DIM
        qkv = attention + 2 * self.num_kv_heads * HEAD_DIM
        return {
            "qkv_rope_append": (qkv, self.hidden),
            "o_proj_residual": (self.hidden, attention),
            "gate_up_silu": (2 * self.intermediate, self.hidden),
            "down_residual": (self.hidden, self.intermediate),
        }

    @property
    def layer_weights(self) -> int:
        return sum(n * k for n, k in self.gemms.values())

    @property
    def kv_token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.num_kv_heads * HEAD_DIM * BF16_BYTES * self.num_layers

    def shape(self) -> ModelShape:
        from terrazzo._core import ModelShape
        from terrazzo.runner import SPLIT_TOKENS

        return ModelShape(
            num_layers=self.num_layers,
            hidden=self.hidden,
            intermediate=self.intermediate,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=HEAD_DIM,
            vocab=self.vocab,
            norm_eps=1e-5,
            world=1,
            split_tokens=SPLIT_TOKENS,
        )


LLAMA_8B = Sizes("8B", 4096, 14336, 32, 8, num_layers=32, vocab=128256)
LLAMA_70B = Sizes("70B", 8192, 28672, 64, 8, num_layers=80, vocab=128256)
