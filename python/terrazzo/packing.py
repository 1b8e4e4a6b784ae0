"""Where a checkpoint's rows go in the fused, reordered weights of one GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from .models.dummy import DummyCheckpoint, RepeatedTensor

if TYPE_CHECKING:
    from ._core import Matrix, ModelShape, StepLimits
    from .models.checkpoint import Checkpoint
    from .models.config import ModelConfig

PANEL_COLS = 64  # core/geometry.hpp kPanelCols
PAIR_RUN = 8  # core/geometry.hpp kPairRun

Index = NDArray[np.int32]
Source = NDArray[np.uint16] | RepeatedTensor
_NO_SCALE = np.empty(0, np.float32)


class Machine(Protocol):
    """Where weights go: a model on either machine. Threads may pack different rows at once."""

    @property
    def shape(self) -> ModelShape: ...

    @property
    def limits(self) -> StepLimits: ...

    def pack_rows(
        self,
        gpu: int,
        which: Matrix,
        layer: int,
        target_rows: Index,
        source: NDArray[np.uint16],
        source_rows: Index,
        column_scale: NDArray[np.float32],
    ) -> None: ...

    def set_tables(
        self,
        embedding: NDArray[np.uint16],
        final_norm: NDArray[np.uint16],
        rope: NDArray[np.float32],
    ) -> None: ...


@runtime_checkable
class RepeatingMachine(Machine, Protocol):
    """Makes values that repeat itself, so that random weights need not travel."""

    def pack_repeated(
        self,
        gpu: int,
        which: Matrix,
        layer: int,
        target_rows: Index,
        pool: NDArray[np.uint16],
        first: int,
        stride: int,
        rows: int,
        cols: int,
        source_rows: Index,
        column_scale: NDArray[np.float32],
    ) -> None: ...

    def set_repeated_tables(
        self,
        pool: NDArray[np.uint16],
        first: int,
        stride: int,
        rows: int,
        cols: int,
        final_norm: NDArray[np.uint16],
        rope: NDArray[np.float32],
    ) -> None: ...


def weight_source(machine: Machine, checkpoint: Checkpoint, name: str) -> Source:
    """A matrix of the checkpoint; without its values where the machine can make them."""
    if isinstance(checkpoint, DummyCheckpoint) and isinstance(machine, RepeatingMachine):
        return checkpoint.repeated(name)
    return np.ascontiguousarray(checkpoint.tensor(name))


def _columns(source: Source, which: slice) -> Source:
    if isinstance(source, RepeatedTensor):
        return source.columns(which)
    return np.ascontiguousarray(source[:, which])


def _pack(
    machine: Machine,
    gpu: int,
    which: Matrix,
    layer: int,
    targets: Index,
    source: Source,
    rows: Index,
    scale: NDArray[np.float32] = _NO_SCALE,
) -> None:
    if isinstance(source, RepeatedTensor):
        assert isinstance(machine, RepeatingMachine)
        machine.pack_repeated(
            gpu,
            which,
            layer,
            targets,
            source.pool,
            source.first,
            source.stride,
            *source.shape,
            rows,
            scale,
        )
    else:
        machine.pack_rows(gpu, which, layer, targets, source, rows, scale)


def pair_interleaved(first: Index, second: Index) -> Index:
    """Alternates two index lists of equal length in runs of PAIR_RUN."""
    runs = np.stack([first.reshape(-1, PAIR_RUN), second.reshape(-1, PAIR_RUN)], axis=1)
    return runs.reshape(-1)


def rotary_order(head_dim: int) -> Index:
    """Dimensions of a head in stored order: rotary partners 8 columns apart."""
    dims = np.arange(head_dim, dtype=np.int32)
    return pair_interleaved(dims[: head_dim // 2], dims[head_dim // 2 :])


@dataclass(frozen=True, slots=True)
class Shard:
    """One GPU's share of a model."""

    config: ModelConfig
    gpu: int
    gpus: int
    act_panels: int
    vocab_panels: int
    o_sharded: bool = False

    def head_rows(self, head: int, order: Index) -> Index:
        """Checkpoint rows of a query or KV head."""
        return (head * self.config.head_dim + order).astype(np.int32)

    def local_kv_heads(self) -> range:
        count = self.config.num_kv_heads // self.gpus
        return range(self.gpu * count, (self.gpu + 1) * count)

    def o_columns(self) -> slice:
        """O's input columns that this GPU keeps: all, or those of its own query heads."""
        if not self.o_sharded:
            return slice(None)
        width = self.config.num_heads // self.gpus * self.config.head_dim
        return slice(self.gpu * width, (self.gpu + 1) * width)

    def intermediate_columns(self) -> Index:
        """Columns of the MLP that this GPU computes; fewer than its panels hold on the last GPU."""
        width = self.act_panels * PANEL_COLS
        end = min((self.gpu + 1) * width, self.config.intermediate_size)
        return np.arange(min(self.gpu * width, end), end, dtype=np.int32)

    def vocabulary_rows(self) -> Index:
        width = self.vocab_panels * PANEL_COLS
        end = min((self.gpu + 1) * width, self.config.vocab_size)
        return np.arange(min(self.gpu * width, end), end, dtype=np.int32)


def bf16_to_float(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def pack_layer(model: Machine, checkpoint: Checkpoint, shards: Sequence[Shard], layer: int) -> None:
    """Packs one layer of all GPUs; RMSNorm weights are folded into the matrices behind them."""
    from ._core import Matrix

    def name(tensor: str) -> str:
        return f"model.layers.{layer}.{tensor}.weight"

    def source_of(tensor: str) -> Source:
        return weight_source(model, checkpoint, name(tensor))

    def norm(tensor: str) -> NDArray[np.float32]:
        return bf16_to_float(np.ascontiguousarray(checkpoint.tensor(name(tensor))))

    attention_scale = norm("input_layernorm")
    for kind in "qkv":
        source = source_of(f"self_attn.{kind}_proj")
        for shard in shards:
            targets, rows = _qkv_rows(shard)[kind]
            _pack(model, shard.gpu, Matrix.QKV, layer, targets, source, rows, attention_scale)
    hidden = np.arange(shards[0].config.hidden_size, dtype=np.int32)
    source = source_of("self_attn.o_proj")
    for shard in shards:
        own = _columns(source, shard.o_columns())
        _pack(model, shard.gpu, Matrix.O, layer, hidden, own, hidden)

    mlp_scale = norm("post_attention_layernorm")
    for half, tensor in ((0, "gate"), (PAIR_RUN, "up")):
        source = source_of(f"mlp.{tensor}_proj")
        for shard in shards:
            columns = shard.intermediate_columns()
            local = np.arange(len(columns), dtype=np.int32)
            targets = (local // PAIR_RUN) * (2 * PAIR_RUN) + local % PAIR_RUN + half
            _pack(model, shard.gpu, Matrix.GATE_UP, layer, targets, source, columns, mlp_scale)
    source = source_of("mlp.down_proj")
    for shard in shards:
        columns = shard.intermediate_columns()
        if len(columns):
            own = _columns(source, slice(int(columns[0]), int(columns[-1]) + 1))
            _pack(model, shard.gpu, Matrix.DOWN, layer, hidden, own, hidden)


def _qkv_rows(shard: Shard) -> dict[str, tuple[Index, Index]]:
    """For q, k and v: rows of the fused matrix, and the checkpoint's rows that go there."""
    config = shard.config
    group = config.num_heads // config.num_kv_heads
    rotary = rotary_order(config.head_dim)
    natural = np.arange(config.head_dim, dtype=np.int32)
    targets: dict[str, list[Index]] = {"q": [], "k": [], "v": []}
    sources: dict[str, list[Index]] = {"q": [], "k": [], "v": []}
    place = 0
    for kv_head in shard.local_kv_heads():
        heads = [("q", kv_head * group + i, rotary) for i in range(group)]
        heads += [("k", kv_head, rotary), ("v", kv_head, natural)]
        for kind, head, order in heads:
            targets[kind].append((place + natural).astype(np.int32))
            sources[kind].append(shard.head_rows(head, order))
            place += config.head_dim
    return {k: (np.concatenate(targets[k]), np.concatenate(sources[k])) for k in targets}


def pack_lm_head(model: Machine, lm_head: Source, shard: Shard) -> None:
    from ._core import Matrix

    rows = shard.vocabulary_rows()
    if len(rows):
        local = np.arange(len(rows), dtype=np.int32)
        _pack(model, shard.gpu, Matrix.LM_HEAD, 0, local, lm_head, rows)


def set_tables(
    machine: Machine,
    embedding: Source,
    final_norm: NDArray[np.uint16],
    rope: NDArray[np.float32],
) -> None:
    """The last part of loading."""
    if isinstance(embedding, RepeatedTensor):
        assert isinstance(machine, RepeatingMachine)
        machine.set_repeated_tables(
            embedding.pool, embedding.first, embedding.stride, *embedding.shape, final_norm, rope
        )
    else:
        machine.set_tables(embedding, final_norm, rope)


def rope_table(inv_freq: NDArray[np.float32], positions: int) -> NDArray[np.float32]:
    """[positions, head_dim]: the cosines of a position, then its sines."""
    angles = np.arange(positions, dtype=np.float32)[:, None] * inv_freq[None, :].astype(np.float32)
    return np.concatenate([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
