"""Loading with several threads: the same weights, steady progress, and errors that end it."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from unit.engine.random_checkpoint import RandomCheckpoint, small_config
from unit.model.drive import teacher_forced

pytest.importorskip("terrazzo._core", reason="needs the compiled extension")

from terrazzo.models.errors import CheckpointError
from terrazzo.runner import ModelRunner

CONFIG = replace(small_config(), num_layers=9, tie_word_embeddings=False)
TOKENS = list(range(20, 80))


class CountingCheckpoint(RandomCheckpoint):
    """Notes which threads read, and damages one tensor if asked to."""

    def __init__(self, damaged: str = "") -> None:
        super().__init__(CONFIG)
        self.damaged = damaged
        self.readers: set[int] = set()
        self.num_reads = 0

    def tensor(self, name: str) -> NDArray[np.uint16]:
        self.readers.add(threading.get_ident())
        self.num_reads += 1
        if name == self.damaged:
            raise CheckpointError(f"{name} is damaged")
        return super().tensor(name)


def logits(load_threads: int, gpus: int = 1) -> NDArray[np.float32]:
    runner = ModelRunner(
        CountingCheckpoint(), gpus=gpus, load_threads=load_threads, max_model_len=64, num_sms=2
    )
    return teacher_forced(runner.step, TOKENS, [len(TOKENS)]).logits


@pytest.mark.parametrize("gpus", [1, 2])
def test_threads_change_nothing(gpus: int) -> None:
    expected = logits(1, gpus)
    np.testing.assert_array_equal(logits(4, gpus), expected)


def test_several_threads_read() -> None:
    checkpoint = CountingCheckpoint()
    ModelRunner(checkpoint, load_threads=3, max_model_len=64, num_sms=1)
    assert 1 < len(checkpoint.readers) <= 4  # theirs, and the caller's


@pytest.mark.parametrize("gpus", [1, 2])
def test_progress(gpus: int) -> None:
    calls: list[tuple[int, int]] = []
    ModelRunner(
        CountingCheckpoint(),
        gpus=gpus,
        load_threads=3,
        max_model_len=64,
        num_sms=1,
        progress=lambda done, total: calls.append((done, total)),
    )
    total = CONFIG.num_layers + 1
    assert calls == [(done, total) for done in range(1, total + 1)]


@pytest.mark.parametrize(
    "name", ["model.layers.0.mlp.up_proj.weight", "model.layers.8.input_layernorm.weight"]
)
def test_the_first_error_is_raised(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name} is damaged"):
        ModelRunner(CountingCheckpoint(name), load_threads=2, max_model_len=64, num_sms=1)


def test_an_error_ends_the_loading() -> None:
    checkpoint = CountingCheckpoint("model.layers.0.input_layernorm.weight")
    with pytest.raises(CheckpointError):
        ModelRunner(checkpoint, load_threads=1, max_model_len=64, num_sms=1)
    whole = CountingCheckpoint()
    ModelRunner(whole, load_threads=1, max_model_len=64, num_sms=1)
    assert checkpoint.num_reads < whole.num_reads / 2


def test_an_interrupt_in_progress_ends_it() -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ModelRunner(
            CountingCheckpoint(), load_threads=2, max_model_len=64, num_sms=1, progress=interrupt
        )
