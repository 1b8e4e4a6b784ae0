"""Weights reach every GPU, and the checkpoint is read once for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from unit.engine.random_checkpoint import RandomCheckpoint, small_config

pytest.importorskip("terrazzo._core", reason="needs the compiled extension")

from terrazzo._core import Matrix
from terrazzo.capacity import Capacity, model_shape
from terrazzo.loading import load_weights
from terrazzo.models.dummy import DummyCheckpoint
from terrazzo.runner import ModelRunner

CONFIG = small_config()


class CountingCheckpoint(RandomCheckpoint):
    """Knows how often each tensor was read."""

    def __init__(self) -> None:
        super().__init__(CONFIG)
        self.reads: Counter[str] = Counter()

    def tensor(self, name: str) -> NDArray[np.uint16]:
        self.reads[name] += 1
        return super().tensor(name)


class RecordingMachine:
    """Keeps the rows that each GPU got, by matrix, layer and target row."""

    def __init__(self, gpus: int, o_sharded: bool = False) -> None:
        capacity = Capacity(CONFIG, 64, 4, 128, 4, 128)
        self.shape = model_shape(CONFIG, gpus, 128, o_sharded=o_sharded)
        self.limits = capacity.limits(4, self.shape)
        self.rows: dict[tuple[int, str, int, int], NDArray[np.uint16]] = {}
        self.made = 0
        self.tables: tuple[int, ...] = ()

    def pack_rows(
        self,
        gpu: int,
        which: Matrix,
        layer: int,
        target_rows: NDArray[np.int32],
        source: NDArray[np.uint16],
        source_rows: NDArray[np.int32],
        column_scale: NDArray[np.float32],
    ) -> None:
        assert len(column_scale) in (0, source.shape[1])
        for target, row in zip(target_rows, source_rows, strict=True):
            key = (gpu, str(which), layer, int(target))
            assert key not in self.rows, "a row is written once"
            self.rows[key] = source[row].copy()

    def set_tables(
        self,
        embedding: NDArray[np.uint16],
        final_norm: NDArray[np.uint16],
        rope: NDArray[np.float32],
    ) -> None:
        self.embedding = embedding
        self.tables = (*embedding.shape, *final_norm.shape, *rope.shape)


class RepeatingRecordingMachine(RecordingMachine):
    """Makes values that repeat itself, and knows how many rows it made."""

    def pack_repeated(
        self,
        gpu: int,
        which: Matrix,
        layer: int,
        target_rows: NDArray[np.int32],
        pool: NDArray[np.uint16],
        first: int,
        stride: int,
        rows: int,
        cols: int,
        source_rows: NDArray[np.int32],
        column_scale: NDArray[np.float32],
    ) -> None:
        index = first + np.arange(rows)[:, None] * stride + np.arange(cols)[None, :]
        source = pool[index % len(pool)]
        self.pack_rows(gpu, which, layer, target_rows, source, source_rows, column_scale)
        self.made += len(target_rows)

    def set_repeated_tables(
        self,
        pool: NDArray[np.uint16],
        first: int,
        stride: int,
        rows: int,
        cols: int,
        final_norm: NDArray[np.uint16],
        rope: NDArray[np.float32],
    ) -> None:
        index = first + np.arange(rows)[:, None] * stride + np.arange(cols)[None, :]
        self.set_tables(pool[index % len(pool)], final_norm, rope)


def rows_of(machine: RecordingMachine, gpu: int, which: Matrix) -> Sequence[NDArray[np.uint16]]:
    """In the order of layers and target rows."""
    keys = sorted(key for key in machine.rows if key[:2] == (gpu, str(which)))
    return [machine.rows[key] for key in keys]


@pytest.mark.parametrize(("gpus", "o_sharded"), [(1, False), (2, False), (2, True)])
def test_each_tensor_is_read_once(gpus: int, o_sharded: bool) -> None:
    checkpoint = CountingCheckpoint()
    seen: list[tuple[int, int]] = []
    machine = RecordingMachine(gpus, o_sharded)
    load_weights(
        machine, checkpoint, gpus=gpus, progress=lambda done, total: seen.append((done, total))
    )
    assert set(checkpoint.reads) == set(checkpoint.names())
    assert set(checkpoint.reads.values()) == {1}
    parts = CONFIG.num_layers + 1
    assert seen == [(done, parts) for done in range(1, parts + 1)]
    assert machine.tables == (CONFIG.vocab_size, CONFIG.hidden_size, CONFIG.hidden_size, 128, 64)


def test_gpus_together_have_the_whole_model() -> None:
    one, two = RecordingMachine(1), RecordingMachine(2)
    load_weights(one, CountingCheckpoint(), gpus=1)
    load_weights(two, CountingCheckpoint(), gpus=2)
    for which in (Matrix.QKV, Matrix.GATE_UP, Matrix.LM_HEAD):  # dealt by rows
        shares = sorted(row.tobytes() for gpu in (0, 1) for row in rows_of(two, gpu, which))
        assert shares == sorted(row.tobytes() for row in rows_of(one, 0, which))
    for gpu in (0, 1):  # the whole on each
        whole = [row.tobytes() for row in rows_of(two, gpu, Matrix.O)]
        assert whole == [row.tobytes() for row in rows_of(one, 0, Matrix.O)]
    halves = zip(rows_of(two, 0, Matrix.DOWN), rows_of(two, 1, Matrix.DOWN), strict=True)
    joined = [np.concatenate(pair).tobytes() for pair in halves]  # dealt by columns
    assert joined == [row.tobytes() for row in rows_of(one, 0, Matrix.DOWN)]


def test_a_sharded_o_is_dealt_by_heads() -> None:
    """Each GPU has the columns of its own query heads, and all its rows."""
    one, two = RecordingMachine(1), RecordingMachine(2, o_sharded=True)
    load_weights(one, CountingCheckpoint(), gpus=1)
    load_weights(two, CountingCheckpoint(), gpus=2)
    width = CONFIG.num_heads // 2 * CONFIG.head_dim
    halves = list(zip(rows_of(two, 0, Matrix.O), rows_of(two, 1, Matrix.O), strict=True))
    assert len(halves) == CONFIG.num_layers * CONFIG.hidden_size
    assert {len(half) for pair in halves for half in pair} == {width}
    joined = [np.concatenate(pair).tobytes() for pair in halves]
    assert joined == [row.tobytes() for row in rows_of(one, 0, Matrix.O)]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("gpus", "o_sharded"), [(1, False), (2, False), (2, True)])
def test_random_weights_are_made_by_the_machine(gpus: int, o_sharded: bool, tied: bool) -> None:
    """With the bits that would travel otherwise; but for norms, no tensor is made on the host."""
    checkpoint = DummyCheckpoint(replace(CONFIG, tie_word_embeddings=tied))
    plain = RecordingMachine(gpus, o_sharded)
    repeating = RepeatingRecordingMachine(gpus, o_sharded)
    for machine in (plain, repeating):
        load_weights(machine, checkpoint, gpus=gpus)
    assert plain.rows.keys() == repeating.rows.keys()
    for key, row in plain.rows.items():
        np.testing.assert_array_equal(repeating.rows[key], row, str(key))
    assert plain.made == 0
    assert repeating.made == len(plain.rows)
    np.testing.assert_array_equal(repeating.embedding, plain.embedding)


@pytest.mark.parametrize("gpus", [1, 2])
def test_how_o_is_kept(gpus: int) -> None:
    with pytest.raises(ValueError, match=r"o_proj='whole': expected one of auto, replicated, shar"):
        ModelRunner(CountingCheckpoint(), gpus=gpus, o_proj="whole")
    for choice in ("auto", "replicated"):
        runner = ModelRunner(CountingCheckpoint(), gpus=gpus, o_proj=choice, max_model_len=64)
        assert runner.o_proj == "replicated"
    if gpus == 1:
        with pytest.raises(ValueError, match="o_proj='sharded': expected at least 2 GPUs, got 1"):
            ModelRunner(CountingCheckpoint(), o_proj="sharded")
    else:
        runner = ModelRunner(CountingCheckpoint(), gpus=2, o_proj="sharded", max_model_len=64)
        assert runner.o_proj == "sharded"


def test_ranks_are_the_gpus_own() -> None:
    """Only GPUs are shared: the host's are virtual without being asked."""
    with pytest.raises(ValueError, match="ranks_per_gpu=2: the host's GPUs are virtual anyway"):
        ModelRunner(CountingCheckpoint(), device="host", gpus=2, ranks_per_gpu=2)
