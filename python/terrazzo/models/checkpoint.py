"""A checkpoint: the configuration and the weights of one model, under Hugging Face names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from .config import ModelConfig
from .errors import CheckpointError

__all__ = ["Checkpoint", "CheckpointError", "expected_tensors", "layer_tensors", "validate"]


class Checkpoint(Protocol):
    """Weights that are read one tensor at a time.

    Names and shapes are those of Hugging Face (`model.layers.0.self_attn.q_proj.weight`,
    `[out, in]`); rows of Q and K are in rotate-half order, whatever the file holds.
    """

    @property
    def config(self) -> ModelConfig:
        """The model that these weights belong to."""
        ...

    def names(self) -> Sequence[str]:
        """All tensors in the file, used by the model or not."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, without reading it; CheckpointError if there is none."""
        ...

    def tensor(self, name: str) -> npt.NDArray[np.uint16]:
        """bfloat16 bits, C-contiguous, aligned, perhaps read-only; CheckpointError if missing."""
        ...


def layer_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Tensors of one layer, named below `model.layers.<n>.`, with their shapes."""
    hidden, intermediate = config.hidden_size, config.intermediate_size
    q_size = config.num_heads * config.head_dim
    kv_size = config.num_kv_heads * config.head_dim
    return {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (q_size, hidden),
        "self_attn.k_proj.weight": (kv_size, hidden),
        "self_attn.v_proj.weight": (kv_size, hidden),
        "self_attn.o_proj.weight": (hidden, q_size),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (intermediate, hidden),
        "mlp.up_proj.weight": (intermediate, hidden),
        "mlp.down_proj.weight": (hidden, intermediate),
    }


def expected_tensors(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Every tensor that the model needs, with its shape; no `lm_head` where embeddings are tied."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config.vocab_size, config.hidden_size)
    }
    in_layer = layer_tensors(config)
    for layer in range(config.num_layers):
        shapes.update({f"model.layers.{layer}.{name}": shape for name, shape in in_layer.items()})
    shapes["model.norm.weight"] = (config.hidden_size,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_size, config.hidden_size)
    return shapes


def validate(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError unless each needed tensor exists in the shape the config implies."""
    names = set(checkpoint.names())
    expected = expected_tensors(checkpoint.config)
    missing = [name for name in expected if name not in names]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise CheckpointError(
            f"[checkpoint] expected tensor {missing[0]} {expected[missing[0]]}{more}, found none; "
            "the file is incomplete or its configuration is of another model"
        )
    for name, shape in expected.items():
        seen = checkpoint.shape(name)
        if seen != shape:
            raise CheckpointError(
                f"[checkpoint] {name}: expected shape {shape} by the configuration, got {seen}"
            )
    biases = sorted(n for n in names if n.startswith("model.layers.") and n.endswith(".bias"))
    if biases:
        raise CheckpointError(
            f"[checkpoint] expected no bias tensors, got {biases[0]}; a model with biases is not "
            "supported and would give wrong text without them"
        )
