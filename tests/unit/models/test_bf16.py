"""Rounding to bfloat16 against torch, on every kind of float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from terrazzo.models.bf16 import from_bf16_bits, to_bf16_bits


def torch_bits(values: np.ndarray) -> np.ndarray:
    rounded = torch.from_numpy(values).to(torch.bfloat16)
    return rounded.view(torch.uint16).numpy()


def test_equals_torch_on_random_bit_patterns() -> None:
    # Longer than a pass of the rounding, so that the seam between passes is seen too.
    bits = np.random.default_rng(0).integers(0, 1 << 32, (1 << 20) + 17, dtype=np.uint32)
    values = bits.view(np.float32)
    values = values[~np.isnan(values)].copy()
    np.testing.assert_array_equal(to_bf16_bits(values), torch_bits(values))


def test_every_bf16_value_and_tie_round_as_in_torch() -> None:
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    for low in (0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        values = (high | np.uint32(low)).view(np.float32)
        values = values[~np.isnan(values)]
        np.testing.assert_array_equal(to_bf16_bits(values), torch_bits(values))


@given(st.integers(0x7F800001, 0x7FFFFFFF), st.booleans())
def test_nan_stays_nan_with_its_sign(pattern: int, negative: bool) -> None:
    bits = np.array([pattern | (0x80000000 if negative else 0)], dtype=np.uint32)
    (out,) = to_bf16_bits(bits.view(np.float32))
    assert np.isnan(from_bf16_bits(np.array([out], dtype=np.uint16)))[0]
    assert bool(out & 0x8000) == negative


def test_round_trip_is_exact_and_keeps_the_shape() -> None:
    bits = np.arange(0, 0x7F80, dtype=np.uint16).reshape(-1, 2)
    np.testing.assert_array_equal(to_bf16_bits(from_bf16_bits(bits)), bits)


def test_strided_input_is_read_in_order() -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    np.testing.assert_array_equal(to_bf16_bits(values.T), to_bf16_bits(values).T)


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="expected float32, got float64"):
        to_bf16_bits(np.zeros(2, dtype=np.float64))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="expected uint16, got uint32"):
        from_bf16_bits(np.zeros(2, dtype=np.uint32))  # type: ignore[arg-type]
