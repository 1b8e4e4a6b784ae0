"""Random weights of a given configuration, made as fast as memory allows: for measurements."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from .bf16 import to_bf16_bits
from .checkpoint import expected_tensors
from .config import ModelConfig
from .errors import CheckpointError

# A prime, so that rows of equal length do not repeat.
_POOL_VALUES = 1_048_573
# Of norm weights around 1.
_NORM_DEVIATION = 0.1


@dataclass(frozen=True, slots=True)
class RepeatedTensor:
    """A matrix, or columns of one, whose (row, col) is the value `first + row * stride + col`,
    modulo its size, of a pool of bfloat16 bits."""

    pool: npt.NDArray[np.uint16]
    first: int
    stride: int
    shape: tuple[int, int]

    def columns(self, which: slice) -> RepeatedTensor:
        """Some columns that follow each other."""
        start, stop, _ = which.indices(self.shape[1])
        return replace(self, first=self.first + start, shape=(self.shape[0], stop - start))


class DummyCheckpoint:
    """Keeps the Checkpoint protocol without a file; a tensor depends on its name and shape alone.

    Matrices are normal with the deviation that keeps the size of what they multiply, so activations
    stay finite in any number of layers. Values repeat after about a million: a model of 8 billion
    weights takes seconds, not minutes.
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._shapes = expected_tensors(config)
        self._normal = np.random.default_rng(0).standard_normal(_POOL_VALUES, np.float32)
        self._pools: dict[tuple[float, float], npt.NDArray[np.uint16]] = {}

    @property
    def config(self) -> ModelConfig:
        """The configuration that the weights belong to."""
        return self._config

    def names(self) -> Sequence[str]:
        """All tensors that the configuration implies."""
        return tuple(self._shapes)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that the configuration implies."""
        if name not in self._shapes:
            raise CheckpointError(f"[dummy] no tensor {name} in a model of this configuration")
        return self._shapes[name]

    def tensor(self, name: str) -> npt.NDArray[np.uint16]:
        """bfloat16 bits."""
        shape = self.shape(name)
        pool, start = self._values(name, shape)
        return np.resize(np.roll(pool, -start), shape)

    def repeated(self, name: str) -> RepeatedTensor:
        """A matrix without its values, for machines that make them themselves."""
        rows, cols = self.shape(name)
        pool, start = self._values(name, (rows, cols))
        return RepeatedTensor(pool, start, cols, (rows, cols))

    def _values(self, name: str, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.uint16], int]:
        """A pool, and where in it the tensor begins."""
        is_norm = len(shape) == 1
        mean, deviation = (1.0, _NORM_DEVIATION) if is_norm else (0.0, shape[-1] ** -0.5)
        return self._pool(mean, deviation), zlib.crc32(name.encode()) % _POOL_VALUES

    def _pool(self, mean: float, deviation: float) -> npt.NDArray[np.uint16]:
        key = (mean, deviation)
        if key not in self._pools:  # threads may make one twice: the same values
            values = np.float32(mean) + np.float32(deviation) * self._normal
            self._pools[key] = to_bf16_bits(values)
        return self._pools[key]
