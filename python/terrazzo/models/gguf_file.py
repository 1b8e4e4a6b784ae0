"""A model in one GGUF file: weights are dequantised and put back under Hugging Face names."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quant_shape_to_byte_shape

from .bf16 import to_bf16_bits
from .config import ModelConfig
from .errors import CheckpointError
from .gguf_config import config_from_gguf
from .gguf_header import GgufHeader, GgufTensor, read_header

_TOP_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_ROPE_FACTORS = "rope_freqs.weight"


class GgufFile:
    """Checkpoint in a GGUF file; a tensor is dequantised each time it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                if path.stat().st_size == 0:
                    raise CheckpointError(f"[gguf] {path} is empty; download or copy it again")
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CheckpointError(f"[gguf] cannot read {path}: {error}") from error
        self.header: GgufHeader = read_header(self._map, path)
        self._tensors = {_hf_name(name): row for name, row in self.header.tensors.items()}
        self._config = self._read_config()

    @property
    def config(self) -> ModelConfig:
        """What the metadata says; tied embeddings where there is no output matrix."""
        return self._config

    def names(self) -> Sequence[str]:
        """All tensors under their Hugging Face names; those without one keep their own."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape in the tensor table."""
        return self._row(name).shape

    def tensor(self, name: str) -> npt.NDArray[np.uint16]:
        """bfloat16 bits, dequantised; Q and K rows in rotate-half order."""
        bits = self._bits(name)
        if name.endswith("self_attn.q_proj.weight"):
            return to_rotate_half_order(bits, self._config.num_heads)
        if name.endswith("self_attn.k_proj.weight"):
            return to_rotate_half_order(bits, self._config.num_kv_heads)
        return bits

    def _row(self, name: str) -> GgufTensor:
        row = self._tensors.get(name)
        if row is None:
            raise CheckpointError(f"[gguf] no tensor {name} in {self.path}")
        return row

    def _bits(self, name: str) -> npt.NDArray[np.uint16]:
        row = self._row(name)
        raw = self._bytes(row)
        if row.kind == GGMLQuantizationType.BF16:
            # A copy: it is aligned, whatever the file's alignment is.
            return np.array(raw.view("<u2"), dtype=np.uint16)
        return to_bf16_bits(self._floats(name, row, raw))

    def _bytes(self, row: GgufTensor) -> npt.NDArray[np.uint8]:
        flat = np.frombuffer(self._map, np.uint8, count=row.num_bytes, offset=row.offset_bytes)
        return flat.reshape(quant_shape_to_byte_shape(row.shape, row.kind))

    def _floats(
        self, name: str, row: GgufTensor, raw: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.float32]:
        try:
            return np.asarray(dequantize(raw, row.kind), dtype=np.float32).reshape(row.shape)
        except NotImplementedError as error:
            raise CheckpointError(
                f"[gguf] {name} in {self.path}: type {row.kind.name} cannot be dequantised; use a "
                "file with another quantisation"
            ) from error

    def _read_config(self) -> ModelConfig:
        metadata = self.header.metadata
        splits = metadata.get("split.count", 0)
        if isinstance(splits, int) and splits > 1:
            raise CheckpointError(
                f"[gguf] {self.path} is one of {splits} parts; merge them into one file first"
            )
        embedding = self._row("model.embed_tokens.weight")
        factors: tuple[float, ...] | None = None
        if _ROPE_FACTORS in self._tensors:
            row = self._row(_ROPE_FACTORS)
            values = self._floats(_ROPE_FACTORS, row, self._bytes(row))
            factors = tuple(float(value) for value in values.reshape(-1))
        return config_from_gguf(
            metadata,
            vocab_size=embedding.shape[0],
            tie_word_embeddings="lm_head.weight" not in self._tensors,
            rope_factors=factors,
        )


def to_rotate_half_order(rows: npt.NDArray[np.uint16], num_heads: int) -> npt.NDArray[np.uint16]:
    """Turns [num_heads * head_dim, in] from the GGUF order of rows to the Hugging Face order.

    GGUF keeps the two rows that rotate together next to each other; in rotate-half order they are
    half a head apart.
    """
    half_dim = rows.shape[0] // num_heads // 2
    pairs = rows.reshape(num_heads, half_dim, 2, -1)
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(rows.shape)


def _hf_name(name: str) -> str:
    """The Hugging Face name of a GGUF tensor, or the name itself where there is none."""
    stem, _, suffix = name.rpartition(".")
    if stem in _TOP_NAMES:
        return f"{_TOP_NAMES[stem]}.{suffix}"
    block, _, rest = stem.partition(".")
    layer, _, part = rest.partition(".")
    if block == "blk" and layer.isdecimal() and part in _LAYER_NAMES:
        return f"model.layers.{layer}.{_LAYER_NAMES[part]}.{suffix}"
    return name
