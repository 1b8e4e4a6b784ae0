"""What a configuration may say, and how it is refused when it says something else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from terrazzo.models.config import ConfigError, ModelConfig, RopeScaling
from terrazzo.models.hf_config import config_from_hf_json

LLAMA_8B: dict[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
}
# float32 powers of two libraries may differ in the last bit, and each of the operations after them.
MAX_INV_FREQ_ERROR = 4 * 2.0**-24


def changed(**changes: object) -> dict[str, object]:
    return {**LLAMA_8B, **changes}


def without(*keys: str) -> dict[str, object]:
    return {key: value for key, value in LLAMA_8B.items() if key not in keys}


def test_llama_8b_is_read() -> None:
    assert config_from_hf_json(LLAMA_8B) == ModelConfig(
        num_layers=32,
        hidden_size=4096,
        intermediate_size=14336,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        vocab_size=128256,
        rms_norm_eps=1e-5,
        rope_theta=500000.0,
        rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192),
        max_position=131072,
        tie_word_embeddings=False,
        bos_token_id=128000,
        eos_token_ids=(128001, 128008, 128009),
    )


def test_new_form_of_rotary_parameters_is_the_same_model() -> None:
    old_scaling = LLAMA_8B["rope_scaling"]
    assert isinstance(old_scaling, dict)
    new = without("rope_scaling", "rope_theta")
    new["rope_parameters"] = {**old_scaling, "rope_theta": 500000.0}
    assert config_from_hf_json(new) == config_from_hf_json(LLAMA_8B)


def test_oldest_name_of_the_rotary_type_is_read() -> None:
    assert config_from_hf_json(changed(rope_scaling={"type": "default"})).rope_scaling is None


def test_generation_config_names_the_end_tokens() -> None:
    assert config_from_hf_json(LLAMA_8B, {"eos_token_id": 7}).eos_token_ids == (7,)
    assert config_from_hf_json(LLAMA_8B, {}).eos_token_ids == (128001, 128008, 128009)
    assert config_from_hf_json(without("eos_token_id")).eos_token_ids == ()


def test_defaults_are_those_of_the_family() -> None:
    config = config_from_hf_json(
        without("num_key_value_heads", "rope_theta", "rope_scaling", "tie_word_embeddings")
    )
    assert (config.num_kv_heads, config.rope_theta) == (32, 10000.0)
    assert (config.rope_scaling, config.tie_word_embeddings) == (None, False)


def test_model_type_is_enough() -> None:
    assert config_from_hf_json(without("architectures")).hidden_size == 4096


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (changed(architectures=["Qwen2ForCausalLM"]), "architecture 'Qwen2ForCausalLM' is not"),
        (changed(architectures=[]), "architectures: expected a list of one name"),
        ({**without("architectures"), "model_type": "gpt2"}, "model_type 'gpt2' is not supported"),
        (changed(rope_scaling={"rope_type": "yarn", "factor": 4.0}), "rotary type 'yarn' is not"),
        (changed(rope_scaling={"type": "linear", "factor": 2.0}), "rotary type 'linear' is not"),
        (changed(rope_parameters={"rope_type": "longrope"}), "rope_parameters: rotary type 'longr"),
        (changed(rope_scaling={"rope_type": "llama3"}), "factor: expected a number, but the key"),
        (changed(rope_scaling="llama3"), "rope_scaling: expected an object or null"),
        (changed(partial_rotary_factor=0.5), "partial_rotary_factor: expected 1"),
        (changed(attention_bias=True), "attention_bias: true is not supported"),
        (changed(mlp_bias=True), "mlp_bias: true is not supported"),
        (changed(hidden_act="gelu"), "hidden_act: expected 'silu', got 'gelu'"),
        (changed(quantization_config={"bits": 4}), "quantization_config"),
        (changed(head_dim=96), r"head_dim: expected one of \(64, 128\), got 96"),
        (changed(num_attention_heads=30), "hidden_size: expected a multiple"),
        (changed(num_key_value_heads=5), "expected a multiple of num_kv_heads"),
        (changed(hidden_size="4096"), "hidden_size: expected an integer, got '4096'"),
        (changed(num_hidden_layers=True), "num_hidden_layers: expected an integer, got True"),
        (changed(num_hidden_layers=0), "num_layers: expected a positive integer, got 0"),
        (changed(rms_norm_eps=float("nan")), "rms_norm_eps: expected a finite number"),
        (changed(rope_theta=0), "rope_theta: expected a finite number above 0"),
        (changed(eos_token_id="</s>"), "eos_token_id: expected an integer or a list"),
        (changed(eos_token_id=-1), r"eos_token_ids: expected a token id"),
        (changed(tie_word_embeddings="yes"), "tie_word_embeddings: expected true or false"),
        (without("vocab_size"), "vocab_size: expected an integer, but the key is missing"),
    ],
)
def test_what_is_not_supported_is_named(config: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_hf_json(config)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("theta", [10000.0, 100000.0, 500000.0])
@pytest.mark.parametrize("factor", [None, 8.0, 32.0])
def test_rotary_frequencies_equal_the_reference(
    head_dim: int, theta: float, factor: float | None
) -> None:
    rope: dict[str, object] = {"rope_type": "default", "rope_theta": theta}
    if factor is not None:
        rope |= {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0}
        rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    config = config_from_hf_json(
        {**without("rope_scaling"), "rope_parameters": rope, "head_dim": head_dim}
    )
    reference = LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=4096, head_dim=head_dim, rope_parameters=dict(rope))
    ).inv_freq.numpy()
    assert config.inv_freq().dtype == np.float32
    np.testing.assert_allclose(config.inv_freq(), reference, rtol=MAX_INV_FREQ_ERROR, atol=0)


def test_rope_factors_divide_the_frequencies() -> None:
    plain = config_from_hf_json(without("rope_scaling"))
    factors = tuple(1.0 + 0.5 * i for i in range(64))
    scaled = replace(plain, rope_factors=factors)
    np.testing.assert_array_equal(
        scaled.inv_freq(), plain.inv_freq() / np.array(factors, dtype=np.float32)
    )


def test_rope_factors_are_checked() -> None:
    plain = config_from_hf_json(without("rope_scaling"))
    with pytest.raises(ConfigError, match="expected 64 values"):
        replace(plain, rope_factors=(1.0,))
    with pytest.raises(ConfigError, match="rope_factors: expected a finite number"):
        replace(plain, rope_factors=(0.0,) * 64)
    with pytest.raises(ConfigError, match="got both"):
        replace(config_from_hf_json(LLAMA_8B), rope_factors=(1.0,) * 64)


def test_rope_scaling_is_checked() -> None:
    with pytest.raises(ConfigError, match="low_freq_factor < high_freq_factor"):
        RopeScaling(8.0, 4.0, 4.0, 8192)
    with pytest.raises(ConfigError, match="at least 1"):
        RopeScaling(0.5, 1.0, 4.0, 8192)
