"""Models by name, for measurements with random weights: no files are needed."""

from __future__ import annotations

from ..models.config import ModelConfig, RopeScaling

_LLAMA_31_ROPE = RopeScaling(
    factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=8192
)


def _llama(
    layers: int, hidden: int, intermediate: int, heads: int, vocab: int = 128256
) -> ModelConfig:
    return ModelConfig(
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_heads=heads,
        num_kv_heads=8,
        head_dim=128,
        vocab_size=vocab,
        rms_norm_eps=1e-5,
        rope_theta=5e5,
        rope_scaling=_LLAMA_31_ROPE,
        max_position=131072,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_ids=(),
    )


def _tiny() -> ModelConfig:
    return ModelConfig(
        num_layers=1,
        hidden_size=64,
        intermediate_size=64,
        num_heads=2,
        num_kv_heads=1,
        head_dim=64,
        vocab_size=512,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
        rope_scaling=None,
        max_position=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_ids=(),
    )


# Llama 3.1 8B and 70B; `tiny` runs on any CPU in no time.
SHAPES = {
    "8b": _llama(32, 4096, 14336, 32),
    "70b": _llama(80, 8192, 28672, 64),
    "tiny": _tiny(),
}
