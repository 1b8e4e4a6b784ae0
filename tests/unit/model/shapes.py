"""Shapes of small random Llamas, and the reason for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unit.models.make_random_llama import make_random_llama

LLAMA3_ROPE: Mapping[str, object] = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,  # below the tests' contexts: all three ranges occur
}
PLAIN_ROPE: Mapping[str, object] = {"rope_type": "default", "rope_theta": 10000.0}

NUM_LAYERS = 3
MAX_POSITION = 1024


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a model; hidden, intermediate and vocabulary sizes are no multiple of a tile."""

    name: str
    head_dim: int
    heads: int
    kv_heads: int
    hidden: int
    intermediate: int
    vocab: int
    tie: bool
    rope: Mapping[str, object]
    degrees: tuple[int, ...]

    def save(self, path: Path) -> Path:
        return make_random_llama(
            path,
            hidden=self.hidden,
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            intermediate=self.intermediate,
            layers=NUM_LAYERS,
            vocab=self.vocab,
            tie=self.tie,
            seed=1,
            rope_parameters=self.rope,
            max_position=MAX_POSITION,
        )


SHAPES = (
    Shape("one query head a KV head", 64, 3, 3, 216, 200, 331, True, PLAIN_ROPE, (1, 3)),
    Shape("SmolLM2's heads", 64, 9, 3, 144, 328, 1000, True, PLAIN_ROPE, (1, 3)),
    Shape("GQA 4, scaled rotary", 64, 8, 2, 360, 500, 777, False, LLAMA3_ROPE, (1, 2)),
    Shape("GQA 8, several tiles", 64, 16, 2, 576, 1000, 2111, False, LLAMA3_ROPE, (1, 2)),
    Shape("128: GQA 8, one KV head", 128, 8, 1, 288, 264, 515, False, LLAMA3_ROPE, (1,)),
    Shape(
        "128: all degrees, small hidden", 128, 8, 8, 72, 520, 300, True, PLAIN_ROPE, (1, 2, 4, 8)
    ),
    Shape("128: GQA 3, more GPUs than tiles", 128, 12, 4, 216, 136, 91, False, PLAIN_ROPE, (2, 4)),
    Shape("128: GQA 4", 128, 16, 4, 144, 392, 643, True, LLAMA3_ROPE, (1, 4)),
)
