"""One `.safetensors` file, mapped into memory; every size in it is checked before it is used."""

from __future__ import annotations

import json
import math
import mmap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .bf16 import to_bf16_bits
from .errors import CheckpointError

_HEADER_LIMIT_BYTES = 100 * 1000 * 1000  # the limit of the format itself
_LENGTH_BYTES = 8
_READ_AHEAD_BYTES = 1 << 20
_NUMPY_TYPES: dict[str, np.dtype[Any]] = {
    "BF16": np.dtype("<u2"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}
_ITEM_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Where one tensor lies in the file."""

    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int  # from the start of the file
    num_bytes: int


class SafetensorsFile:
    """Reads tensors of one file lazily, as bfloat16 bits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                size_bytes = path.stat().st_size
                if size_bytes < _LENGTH_BYTES:
                    raise self._damaged(f"{size_bytes} bytes are too few for a header")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CheckpointError(f"[safetensors] cannot read {path}: {error}") from error
        self.entries = self._read_header(size_bytes)

    def tensor(self, name: str) -> npt.NDArray[np.uint16]:
        """bfloat16 bits; a view of the mapped file where it holds aligned bfloat16."""
        entry = self.entries.get(name)
        if entry is None:
            raise CheckpointError(f"[safetensors] no tensor {name} in {self.path}")
        dtype = _NUMPY_TYPES.get(entry.dtype)
        if dtype is None:
            raise CheckpointError(
                f"[safetensors] {name} in {self.path}: expected one of "
                f"{', '.join(_NUMPY_TYPES)}, got {entry.dtype}"
            )
        self._read_ahead(entry)
        count = math.prod(entry.shape)
        flat: npt.NDArray[np.generic] = np.frombuffer(
            self._map, dtype=dtype, count=count, offset=entry.offset_bytes
        )
        values = flat.reshape(entry.shape)
        if entry.dtype == "BF16":
            # The format does not promise aligned data; those who read by pointer need it.
            aligned: npt.NDArray[np.uint16] = np.require(values, np.uint16, ["C", "ALIGNED"])
            return aligned
        return to_bf16_bits(values.astype(np.float32, copy=False))

    def _read_ahead(self, entry: TensorEntry) -> None:
        """Asks for a large tensor as a whole: page by page a disk would be slower."""
        if entry.num_bytes >= _READ_AHEAD_BYTES and hasattr(mmap, "MADV_WILLNEED"):
            start = entry.offset_bytes // mmap.PAGESIZE * mmap.PAGESIZE
            end = entry.offset_bytes + entry.num_bytes
            self._map.madvise(mmap.MADV_WILLNEED, start, end - start)

    def _read_header(self, size_bytes: int) -> dict[str, TensorEntry]:
        if self._map[:12] == b"version http":
            raise CheckpointError(
                f"[safetensors] {self.path} is a Git LFS pointer, not the file itself; "
                "fetch the weights with `git lfs pull`"
            )
        header_bytes = int.from_bytes(self._map[:_LENGTH_BYTES], "little")
        data_start = _LENGTH_BYTES + header_bytes
        if header_bytes > _HEADER_LIMIT_BYTES or data_start > size_bytes:
            raise self._damaged(f"a header of {header_bytes} bytes in a file of {size_bytes}")
        try:
            header = json.loads(self._map[_LENGTH_BYTES:data_start].decode("utf-8"))
        except ValueError as error:
            raise self._damaged(f"the header is not JSON ({error})") from error
        if not isinstance(header, dict):
            raise self._damaged("the header is not a JSON object")
        header.pop("__metadata__", None)
        entries = {name: self._entry(name, value, data_start) for name, value in header.items()}
        end = max((e.offset_bytes + e.num_bytes for e in entries.values()), default=data_start)
        if end > size_bytes:
            raise self._damaged(f"truncated: expected {end} bytes, got {size_bytes}")
        return entries

    def _entry(self, name: str, value: object, data_start: int) -> TensorEntry:
        if not isinstance(value, dict):
            raise self._damaged(f"the entry of {name} is not a JSON object")
        dtype = value.get("dtype")
        shape, offsets = _counts(value.get("shape")), _counts(value.get("data_offsets"))
        if shape is None or offsets is None or len(offsets) != 2:
            raise self._damaged(f"{name} has the entry {value!r}")
        begin, end = offsets
        bits = _ITEM_BITS.get(dtype) if isinstance(dtype, str) else None
        if bits is None:
            raise self._damaged(f"{name} has the unknown type {dtype!r}")
        if end - begin != math.prod(shape) * bits // 8:
            raise self._damaged(f"{name} has shape {shape} of {dtype}, but {end - begin} bytes")
        return TensorEntry(str(dtype), shape, data_start + begin, end - begin)

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"[safetensors] {self.path} is damaged: {what}; download or copy it again"
        )


def _counts(value: object) -> tuple[int, ...] | None:
    """The list as a tuple if all its items are whole numbers of 0 or more."""
    if not isinstance(value, list):
        return None
    if any(not isinstance(item, int) or isinstance(item, bool) or item < 0 for item in value):
        return None
    return tuple(value)
