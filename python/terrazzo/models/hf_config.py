"""Reads the `config.json` of a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping

from .config import ModelConfig, RopeScaling
from .errors import ConfigError
from .fields import (
    bool_or,
    float_or,
    int_or,
    optional_int,
    required_float,
    required_int,
    str_or,
)

_ARCHITECTURES = ("LlamaForCausalLM",)
_ROPE_TYPES = ("default", "llama3")


def config_from_hf_json(
    config: Mapping[str, object], generation_config: Mapping[str, object] | None = None
) -> ModelConfig:
    """The model of a `config.json`; end tokens come from `generation_config.json` first."""
    _check_architecture(config)
    _check_features(config)
    hidden_size = required_int(config, "hidden_size")
    num_heads = required_int(config, "num_attention_heads")
    head_dim = optional_int(config, "head_dim")
    if head_dim is None:
        if num_heads < 1 or hidden_size % num_heads:
            raise ConfigError(
                "[config] hidden_size: expected a multiple of num_attention_heads "
                f"({num_heads}) because head_dim is not given, got {hidden_size}"
            )
        head_dim = hidden_size // num_heads
    max_position = int_or(config, "max_position_embeddings", 2048)
    rope_theta, rope_scaling = _rope(config, max_position)
    generation = {} if generation_config is None else generation_config
    return ModelConfig(
        num_layers=required_int(config, "num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=required_int(config, "intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=int_or(config, "num_key_value_heads", num_heads),
        head_dim=head_dim,
        vocab_size=required_int(config, "vocab_size"),
        rms_norm_eps=float_or(config, "rms_norm_eps", 1e-6),
        rope_theta=rope_theta,
        rope_scaling=rope_scaling,
        max_position=max_position,
        tie_word_embeddings=bool_or(config, "tie_word_embeddings", False),
        bos_token_id=optional_int(config, "bos_token_id"),
        eos_token_ids=_eos_token_ids(generation) or _eos_token_ids(config),
    )


def _check_architecture(config: Mapping[str, object]) -> None:
    architectures = config.get("architectures")
    if architectures is None:
        # Hand-written configurations often name the model type only.
        model_type = config.get("model_type")
        if model_type != "llama":
            raise ConfigError(
                f"[config] model_type {model_type!r} is not supported; expected 'llama'"
            )
        return
    if not isinstance(architectures, list) or len(architectures) != 1:
        raise ConfigError(
            f"[config] architectures: expected a list of one name, got {architectures!r}"
        )
    if architectures[0] not in _ARCHITECTURES:
        raise ConfigError(
            f"[config] architecture {architectures[0]!r} is not supported; "
            f"expected one of: {', '.join(_ARCHITECTURES)}"
        )


def _check_features(config: Mapping[str, object]) -> None:
    activation = str_or(config, "hidden_act", "silu")
    if activation != "silu":
        raise ConfigError(f"[config] hidden_act: expected 'silu', got {activation!r}")
    for key in ("attention_bias", "mlp_bias", "rope_interleaved"):
        if bool_or(config, key, False):
            raise ConfigError(f"[config] {key}: true is not supported, expected false")
    if config.get("quantization_config") is not None:
        raise ConfigError(
            "[config] quantization_config: quantized weights are not supported; use the "
            "unquantized checkpoint or a GGUF file"
        )


def _rope(config: Mapping[str, object], max_position: int) -> tuple[float, RopeScaling | None]:
    """Base and scaling: from `rope_parameters`, else from `rope_theta` and `rope_scaling`."""
    key = "rope_parameters" if config.get("rope_parameters") is not None else "rope_scaling"
    parameters = config.get(key)
    theta = float_or(config, "rope_theta", 10000.0)
    if parameters is None:
        _check_whole_head_rotates(config)
        return theta, None
    if not isinstance(parameters, dict):
        raise ConfigError(f"[config] {key}: expected an object or null, got {parameters!r}")
    theta = float_or(parameters, "rope_theta", theta)
    _check_whole_head_rotates({**config, **parameters})
    # Files written before 2024 say "type".
    rope_type = parameters.get("rope_type", parameters.get("type", "default"))
    if rope_type not in _ROPE_TYPES:
        raise ConfigError(
            f"[config] {key}: rotary type {rope_type!r} is not supported; "
            f"expected one of: {', '.join(_ROPE_TYPES)}"
        )
    if rope_type == "default":
        return theta, None
    return theta, RopeScaling(
        factor=required_float(parameters, "factor"),
        low_freq_factor=required_float(parameters, "low_freq_factor"),
        high_freq_factor=required_float(parameters, "high_freq_factor"),
        original_max_position=int_or(parameters, "original_max_position_embeddings", max_position),
    )


def _check_whole_head_rotates(source: Mapping[str, object]) -> None:
    share = float_or(source, "partial_rotary_factor", 1.0)
    if share != 1.0:
        raise ConfigError(
            f"[config] partial_rotary_factor: expected 1 (the whole head rotates), got {share}"
        )


def _eos_token_ids(source: Mapping[str, object]) -> tuple[int, ...]:
    value = source.get("eos_token_id")
    values = value if isinstance(value, list) else [] if value is None else [value]
    for token in values:
        if not isinstance(token, int) or isinstance(token, bool):
            raise ConfigError(
                f"[config] eos_token_id: expected an integer or a list of them, got {value!r}"
            )
    return tuple(values)
