"""What a Llama-family model is: its sizes, its rotary frequencies and its special tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .errors import ConfigError

__all__ = ["SUPPORTED_HEAD_DIMS", "ConfigError", "ModelConfig", "RopeScaling"]

SUPPORTED_HEAD_DIMS = (64, 128)


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Llama-3 rotary scaling: long wavelengths are stretched by `factor`, short ones are kept."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position: int

    def __post_init__(self) -> None:
        for name in ("factor", "low_freq_factor", "high_freq_factor"):
            _require_positive(f"rope_scaling.{name}", getattr(self, name))
        if self.factor < 1.0:
            raise ConfigError(
                f"[config] rope_scaling.factor: expected at least 1, got {self.factor}"
            )
        if self.low_freq_factor >= self.high_freq_factor:
            raise ConfigError(
                "[config] rope_scaling: expected low_freq_factor < high_freq_factor, got "
                f"{self.low_freq_factor} and {self.high_freq_factor}"
            )
        _require_count("rope_scaling.original_max_position", self.original_max_position)

    def apply(self, inv_freq: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Scaled frequencies, in float32 and in the order of operations of the reference."""
        wavelength = np.reciprocal(inv_freq) * np.float32(2 * math.pi)
        longest_kept = self.original_max_position / self.high_freq_factor
        shortest_stretched = self.original_max_position / self.low_freq_factor
        stretched = inv_freq / np.float32(self.factor)
        blend = (
            np.reciprocal(wavelength) * np.float32(self.original_max_position)
            - np.float32(self.low_freq_factor)
        ) / np.float32(self.high_freq_factor - self.low_freq_factor)
        blended = (np.float32(1) - blend) * inv_freq / np.float32(self.factor) + blend * inv_freq
        scaled = np.where(wavelength > shortest_stretched, stretched, inv_freq)
        between = (wavelength >= longest_kept) & (wavelength <= shortest_stretched)
        return np.where(between, blended, scaled).astype(np.float32)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and constants of one model; every instance that exists is one the core can run."""

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    max_position: int
    tie_word_embeddings: bool
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    rope_factors: tuple[float, ...] | None = None  # [head_dim / 2], divide the frequencies

    def __post_init__(self) -> None:
        for name in (
            "num_layers",
            "hidden_size",
            "intermediate_size",
            "num_heads",
            "num_kv_heads",
            "head_dim",
            "vocab_size",
            "max_position",
        ):
            _require_count(name, getattr(self, name))
        _require_positive("rms_norm_eps", self.rms_norm_eps)
        _require_positive("rope_theta", self.rope_theta)
        if self.head_dim not in SUPPORTED_HEAD_DIMS:
            raise ConfigError(
                f"[config] head_dim: expected one of {SUPPORTED_HEAD_DIMS}, got {self.head_dim}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                "[config] num_heads: expected a multiple of num_kv_heads "
                f"({self.num_kv_heads}), got {self.num_heads}"
            )
        if self.bos_token_id is not None:
            _require_token("bos_token_id", self.bos_token_id)
        for token in self.eos_token_ids:
            _require_token("eos_token_ids", token)
        self._check_rope_factors()

    def _check_rope_factors(self) -> None:
        if self.rope_factors is None:
            return
        if self.rope_scaling is not None:
            raise ConfigError("[config] expected rope_scaling or rope_factors, got both")
        if len(self.rope_factors) != self.head_dim // 2:
            raise ConfigError(
                f"[config] rope_factors: expected {self.head_dim // 2} values (half of head_dim), "
                f"got {len(self.rope_factors)}"
            )
        for factor in self.rope_factors:
            _require_positive("rope_factors", factor)

    def inv_freq(self) -> npt.NDArray[np.float32]:
        """Rotary frequencies, scaling applied: float32[head_dim / 2]."""
        exponents = np.arange(0, self.head_dim, 2, dtype=np.float32) / np.float32(self.head_dim)
        # The power is rounded to float32 before the division: so the values equal the reference.
        powers = np.power(np.float64(self.rope_theta), exponents.astype(np.float64))
        inv_freq: npt.NDArray[np.float32] = np.reciprocal(powers.astype(np.float32))
        if self.rope_scaling is not None:
            return self.rope_scaling.apply(inv_freq)
        if self.rope_factors is not None:
            return np.divide(inv_freq, np.asarray(self.rope_factors, dtype=np.float32))
        return inv_freq


def _require_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"[config] {name}: expected a positive integer, got {value!r}")


def _require_positive(name: str, value: object) -> None:
    if (
        not isinstance(value, int | float)
        or isinstance(value, bool)
        or not math.isfinite(value)
        or value <= 0
    ):
        raise ConfigError(f"[config] {name}: expected a finite number above 0, got {value!r}")


def _require_token(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ConfigError(f"[config] {name}: expected a token id (0 or more), got {value!r}")
