"""The head of a GGUF file: metadata and the table of tensors, with every size checked.

The file is read here because the reader of the `gguf` package does not notice where a file ends,
and takes seconds for a vocabulary of 50,000 strings. Constants and block formats are the package's.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from gguf.constants import (
    GGML_QUANT_SIZES,
    GGUF_DEFAULT_ALIGNMENT,
    GGMLQuantizationType,
    GGUFValueType,
)

from .errors import CheckpointError

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_DIMS = 4
_MIN_STRING_BYTES = 8
_SCALARS = {
    GGUFValueType.UINT8: struct.Struct("<B"),
    GGUFValueType.INT8: struct.Struct("<b"),
    GGUFValueType.UINT16: struct.Struct("<H"),
    GGUFValueType.INT16: struct.Struct("<h"),
    GGUFValueType.UINT32: struct.Struct("<I"),
    GGUFValueType.INT32: struct.Struct("<i"),
    GGUFValueType.FLOAT32: struct.Struct("<f"),
    GGUFValueType.UINT64: struct.Struct("<Q"),
    GGUFValueType.INT64: struct.Struct("<q"),
    GGUFValueType.FLOAT64: struct.Struct("<d"),
    GGUFValueType.BOOL: struct.Struct("<?"),
}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One row of the tensor table."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]  # slowest dimension first, as numpy has it: [out, in]
    offset_bytes: int  # from the start of the file
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """All that a GGUF file says about its model."""

    metadata: dict[str, object]
    tensors: dict[str, GgufTensor]


def read_header(data: mmap.mmap, path: Path) -> GgufHeader:
    """Reads the head of a mapped file; CheckpointError tells what is wrong with it."""
    cursor = _Cursor(data, path)
    if cursor.take(len(_MAGIC)) != _MAGIC:
        raise CheckpointError(f"[gguf] {path} is not a GGUF file: it does not begin with GGUF")
    version = cursor.scalar(GGUFValueType.UINT32)
    if version not in _VERSIONS:
        raise CheckpointError(
            f"[gguf] {path}: expected version 2 or 3 (little-endian), got {version}"
        )
    num_tensors = cursor.count()
    num_keys = cursor.count()
    metadata: dict[str, object] = {}
    for _ in range(num_keys):
        key = cursor.string()
        metadata[key] = cursor.value()
    table = [cursor.tensor_row() for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", GGUF_DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise cursor.damaged(f"general.alignment is {alignment!r}")
    data_start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, kind, shape, offset in table:
        tensor = GgufTensor(kind, shape, data_start + offset, _num_bytes(kind, shape))
        if tensor.offset_bytes + tensor.num_bytes > len(data):
            raise cursor.damaged(
                f"truncated: tensor {name} ends at byte {tensor.offset_bytes + tensor.num_bytes}, "
                f"the file at {len(data)}"
            )
        if name in tensors:
            raise cursor.damaged(f"tensor {name} is there twice")
        tensors[name] = tensor
    return GgufHeader(metadata, tensors)


def _num_bytes(kind: GGMLQuantizationType, shape: tuple[int, ...]) -> int:
    block_elems, block_bytes = GGML_QUANT_SIZES[kind]
    return math.prod(shape) // block_elems * block_bytes


class _Cursor:
    """A position in the file that never passes its end."""

    def __init__(self, data: mmap.mmap, path: Path) -> None:
        self._data = data
        self._path = path
        self.position = 0

    def damaged(self, what: str) -> CheckpointError:
        return CheckpointError(f"[gguf] {self._path} is damaged: {what}; download or copy it again")

    def take(self, num_bytes: int) -> bytes:
        end = self.position + num_bytes
        if end > len(self._data):
            raise self.damaged(
                f"truncated: byte {end} is needed, the file ends at {len(self._data)}"
            )
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def scalar(self, kind: GGUFValueType) -> object:
        layout = _SCALARS[kind]
        value: object = layout.unpack(self.take(layout.size))[0]
        return value

    def count(self) -> int:
        return int.from_bytes(self.take(8), "little")

    def string(self) -> str:
        raw = self.take(self.count())
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged(f"a string is not UTF-8 ({error})") from error

    def value(self) -> object:
        kind = self._value_type()
        if kind == GGUFValueType.STRING:
            return self.string()
        if kind == GGUFValueType.ARRAY:
            return self._array()
        return self.scalar(kind)

    def _array(self) -> list[object]:
        kind = self._value_type()
        length = self.count()
        if kind == GGUFValueType.ARRAY:
            raise self.damaged("an array holds arrays")
        item_bytes = _MIN_STRING_BYTES if kind == GGUFValueType.STRING else _SCALARS[kind].size
        # Checked before the loop: a wrong length must not fill the memory.
        if self.position + length * item_bytes > len(self._data):
            raise self.damaged(f"truncated: an array of {length} items passes the end of the file")
        if kind == GGUFValueType.STRING:
            return [self.string() for _ in range(length)]
        layout = struct.Struct(f"<{length}{_SCALARS[kind].format[1:]}")
        return list(layout.unpack(self.take(layout.size)))

    def _value_type(self) -> GGUFValueType:
        raw = int.from_bytes(self.take(4), "little")
        try:
            return GGUFValueType(raw)
        except ValueError as error:
            raise self.damaged(f"value type {raw} is unknown") from error

    def tensor_row(self) -> tuple[str, GGMLQuantizationType, tuple[int, ...], int]:
        name = self.string()
        num_dims = int.from_bytes(self.take(4), "little")
        if num_dims > _MAX_DIMS:
            raise self.damaged(f"tensor {name} has {num_dims} dimensions")
        shape = tuple(reversed([self.count() for _ in range(num_dims)]))
        raw = int.from_bytes(self.take(4), "little")
        try:
            kind = GGMLQuantizationType(raw)
        except ValueError as error:
            raise CheckpointError(
                f"[gguf] {self._path}: tensor {name} has the unknown type {raw}; "
                "a newer gguf package may know it"
            ) from error
        block_elems = GGML_QUANT_SIZES[kind][0]
        if not shape or shape[-1] % block_elems:
            raise self.damaged(
                f"tensor {name} of type {kind.name} has shape {shape}, whose rows are no multiple "
                f"of {block_elems}"
            )
        return name, kind, shape, self.count()
