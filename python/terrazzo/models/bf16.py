"""bfloat16 as bits in uint16 arrays: numpy has no such type."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_QUIET_BIT = np.uint16(0x0040)
_CHUNK = 1 << 20  # values a pass: 4 MB of input, so that the passes run out of cache


def to_bf16_bits(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounds to nearest, ties to even; NaN stays NaN (made quiet), overflow gives infinity."""
    if values.dtype != np.float32:
        raise TypeError(f"[to_bf16_bits] expected float32, got {values.dtype}")
    bits = np.ascontiguousarray(values).view(np.uint32).reshape(-1)
    out = np.empty(bits.shape, dtype=np.uint16)
    for start in range(0, bits.size, _CHUNK):
        out[start : start + _CHUNK] = _round_chunk(bits[start : start + _CHUNK])
    return out.reshape(values.shape)


def from_bf16_bits(bits: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """The exact float32 values of bfloat16 bits."""
    if bits.dtype != np.uint16:
        raise TypeError(f"[from_bf16_bits] expected uint16, got {bits.dtype}")
    wide: npt.NDArray[np.uint32] = np.left_shift(bits, 16, dtype=np.uint32)
    return wide.view(np.float32)


def _round_chunk(bits: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint16]:
    high = bits >> np.uint32(16)
    # Half a unit, less one where the kept part is even: the carry then rounds ties to even.
    summed = bits + (high & np.uint32(1)) + np.uint32(0x7FFF)
    rounded: npt.NDArray[np.uint16] = np.right_shift(summed, 16).astype(np.uint16)
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    if is_nan.any():
        rounded[is_nan] = high[is_nan].astype(np.uint16) | _QUIET_BIT
    return rounded
