"""Sizes, steps and tiles of the GPU's benchmarks, as far as they need no GPU."""

from __future__ import annotations

import numpy as np
import pytest
from bench.gpu_models import (
    LLAMA_8B,
    Sizes,
    Waves,
    decode,
    is_large,
    limits_for,
    prompts,
    ragged_lengths,
    step_of,
    tiles_of,
)

from terrazzo._core import instruction_counts, weight_bytes

SMALL = Sizes("8B", 4096, 14336, 32, 8)
LIMITS = limits_for(SMALL, max_rows=4096, max_sequences=64, max_position=2048, num_pages=512)


@pytest.mark.parametrize(
    ("tiles", "waves", "efficiency"), [(1, 1, 1 / 132), (132, 1, 1.0), (133, 2, 133 / 264)]
)
def test_waves(tiles: int, waves: int, efficiency: float) -> None:
    seen = Waves(tiles, sms=132)
    assert seen.waves == waves
    assert seen.efficiency == pytest.approx(efficiency)


def test_tiles_are_those_of_the_lowering() -> None:
    """4096 rows of gate and up: 32 row blocks of 112 tiles of 256 columns."""
    arrays = prompts(8, 512, SMALL.vocab)
    seen = tiles_of(SMALL.shape(), LIMITS, arrays, "gate_up_silu", 132)
    assert seen == Waves(32 * 112, 132)
    counts = instruction_counts(SMALL.shape(), LIMITS, arrays, 132)
    assert counts["attend_prefill"] == 8 * 4 * 32  # sequences, row blocks of each, heads
    assert counts["step_end"] == 1


def test_layers_multiply_tiles() -> None:
    deep = Sizes("deep", 4096, 14336, 32, 8, num_layers=3)
    arrays = prompts(8, 512, deep.vocab)
    assert tiles_of(deep.shape(), LIMITS, arrays, "gate_up_silu", 132).tiles == 3 * 32 * 112


@pytest.mark.parametrize(
    ("rows", "cols", "large"),
    [(512, 28672, False), (640, 28672, True), (4096, 4096, False), (4224, 4096, True)],
)
def test_from_528_tiles_on_waves_hardly_matter(rows: int, cols: int, large: bool) -> None:
    assert is_large(rows, cols) == large


def test_gemms_are_the_models_matrices() -> None:
    assert LLAMA_8B.gemms["qkv_rope_append"] == (6144, 4096)
    assert LLAMA_8B.gemms["gate_up_silu"] == (28672, 4096)
    whole = LLAMA_8B.num_layers * LLAMA_8B.layer_weights + 2 * LLAMA_8B.vocab * LLAMA_8B.hidden
    tables = weight_bytes(LLAMA_8B.shape(), 64) - 2 * whole
    assert 0 < tables < 10**6  # the final norm, the rotary table
    assert LLAMA_8B.kv_token_bytes == 131072


@pytest.mark.parametrize(("sequences", "mean"), [(64, 512), (256, 2048), (1024, 8192), (3, 64)])
def test_ragged_lengths_have_the_even_ones_sum(sequences: int, mean: int) -> None:
    lengths = ragged_lengths(sequences, mean)
    assert lengths.sum() == sequences * mean
    assert lengths.min() >= mean // 4
    assert lengths.max() <= 2 * mean
    assert len(set(lengths.tolist())) > 1


def test_pages_belong_to_one_sequence_each() -> None:
    step = step_of([1, 1, 130], [0, 64, 10], vocab=256)
    assert np.diff(step.page_indptr).tolist() == [1, 2, 3]
    assert sorted(step.page_ids.tolist()) == list(range(6))
    assert step.logit_rows.tolist() == [0, 1, 131]


def test_a_decoded_row_is_the_last_of_its_context() -> None:
    """So a context of whole pages takes no further page: 2048 sequences at 192 fit 3 pages each."""
    counts = instruction_counts(SMALL.shape(), LIMITS, decode([192] * 64, SMALL.vocab), 132)
    assert counts["attend_decode"] > 0
    assert step_of([1], [191], vocab=256).page_ids.size == 3
