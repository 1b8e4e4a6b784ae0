"""Reads the model's configuration from GGUF metadata."""

from __future__ import annotations

from collections.abc import Mapping

from .config import ModelConfig
from .errors import ConfigError
from .fields import float_or, int_or, optional_int, required_float, required_int, str_or

_ARCHITECTURE = "llama"
_END_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")
# Files made before the keys above existed mark these tokens as control tokens only.
_END_OF_TURN_TOKENS = frozenset({"<|eot_id|>", "<|eom_id|>", "<|im_end|>"})
_CONTROL_TOKEN = 3


def config_from_gguf(
    metadata: Mapping[str, object],
    *,
    vocab_size: int,
    tie_word_embeddings: bool,
    rope_factors: tuple[float, ...] | None,
) -> ModelConfig:
    """The model that a GGUF file describes.

    `vocab_size` is the number of embedding rows, used where the metadata does not name it.
    """
    architecture = str_or(metadata, "general.architecture", "")
    if architecture != _ARCHITECTURE:
        raise ConfigError(
            f"[config] architecture {architecture!r} is not supported; expected {_ARCHITECTURE!r}"
        )
    if int_or(metadata, "llama.expert_count", 0) > 0:
        raise ConfigError("[config] llama.expert_count: mixtures of experts are not supported")
    _check_rope_type(metadata)
    hidden_size = required_int(metadata, "llama.embedding_length")
    num_heads = required_int(metadata, "llama.attention.head_count")
    return ModelConfig(
        num_layers=required_int(metadata, "llama.block_count"),
        hidden_size=hidden_size,
        intermediate_size=required_int(metadata, "llama.feed_forward_length"),
        num_heads=num_heads,
        num_kv_heads=int_or(metadata, "llama.attention.head_count_kv", num_heads),
        head_dim=_head_dim(metadata, hidden_size, num_heads),
        vocab_size=int_or(metadata, "llama.vocab_size", vocab_size),
        rms_norm_eps=required_float(metadata, "llama.attention.layer_norm_rms_epsilon"),
        rope_theta=float_or(metadata, "llama.rope.freq_base", 10000.0),
        rope_scaling=None,
        max_position=required_int(metadata, "llama.context_length"),
        tie_word_embeddings=tie_word_embeddings,
        bos_token_id=optional_int(metadata, "tokenizer.ggml.bos_token_id"),
        eos_token_ids=gguf_eos_token_ids(metadata),
        rope_factors=rope_factors,
    )


def gguf_eos_token_ids(metadata: Mapping[str, object]) -> tuple[int, ...]:
    """The tokens that end a text or a turn, the file's own end token first."""
    ends = [optional_int(metadata, f"tokenizer.ggml.{key}") for key in _END_KEYS]
    tokens = metadata.get("tokenizer.ggml.tokens")
    kinds = metadata.get("tokenizer.ggml.token_type")
    if isinstance(tokens, list) and isinstance(kinds, list):
        ends += [
            index
            for index, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
            if kind == _CONTROL_TOKEN and token in _END_OF_TURN_TOKENS
        ]
    return tuple(dict.fromkeys(end for end in ends if end is not None))


def _check_rope_type(metadata: Mapping[str, object]) -> None:
    # Llama-3 scaling is not named here: such files carry its factors as a tensor.
    rope_type = str_or(metadata, "llama.rope.scaling.type", "none")
    if rope_type != "none":
        raise ConfigError(
            f"[config] llama.rope.scaling.type: rotary type {rope_type!r} is not supported; "
            "expected 'none' (with or without the tensor rope_freqs.weight)"
        )
    # The oldest files have a linear factor without a type.
    if float_or(metadata, "llama.rope.scale_linear", 1.0) != 1.0:
        raise ConfigError("[config] llama.rope.scale_linear: rotary type 'linear' is not supported")


def _head_dim(metadata: Mapping[str, object], hidden_size: int, num_heads: int) -> int:
    head_dim = optional_int(metadata, "llama.attention.key_length")
    if head_dim is None:
        if num_heads < 1 or hidden_size % num_heads:
            raise ConfigError(
                "[config] llama.embedding_length: expected a multiple of the head count "
                f"({num_heads}), got {hidden_size}"
            )
        head_dim = hidden_size // num_heads
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        seen = int_or(metadata, key, head_dim)
        if seen != head_dim:
            raise ConfigError(f"[config] {key}: expected the head size {head_dim}, got {seen}")
    return head_dim
