"""Models with random weights on the GPU, and steps for them, for benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from bench.model_sizes import BF16_BYTES as BF16_BYTES
from bench.model_sizes import HEAD_DIM as HEAD_DIM
from bench.model_sizes import LLAMA_8B as LLAMA_8B
from bench.model_sizes import Sizes
from numpy.typing import NDArray
from unit.model.drive import pages_of

from terrazzo._core import CudaModel, ModelShape, StepArrays, StepLimits, instruction_counts
from terrazzo.runner import SPLIT_TOKENS, arrays_of
from terrazzo.step import PAGE_TOKENS, StepInput

TILE_ROWS = 128
TILE_COLS = 256


def limits_for(
    sizes: Sizes, *, max_rows: int, max_sequences: int, max_position: int, num_pages: int
) -> StepLimits:
    """With room for all parts of attention that the lowering may want to split."""
    parts = num_pages * PAGE_TOKENS // SPLIT_TOKENS + max_sequences
    return StepLimits(
        max_rows=max_rows,
        max_sequences=max_sequences,
        max_position=max_position,
        num_pages=num_pages,
        max_logit_rows=8,
        max_partials=parts * sizes.num_kv_heads,
    )


def random_model(sizes: Sizes, limits: StepLimits) -> CudaModel:
    """On the GPU, everything random."""
    model = CudaModel(sizes.shape(), limits)
    model.fill_random(seed=1)
    return model


def step_of(
    lengths: Sequence[int] | NDArray[np.int64],
    contexts: Sequence[int] | NDArray[np.int64],
    vocab: int,
) -> StepInput:
    """Sequences of so many rows after so many cached tokens. Each gets a token, greedily.

    Pages are scattered over the pool and belong to one sequence each.
    """
    random = np.random.default_rng(7)
    rows = np.asarray(lengths, np.int32)
    cached = np.asarray(contexts, np.int32)
    pages = [pages_of(int(tokens)) for tokens in rows + cached]
    indptr = np.concatenate([[0], np.cumsum(pages)]).astype(np.int32)
    n = len(rows)
    return StepInput(
        token_ids=random.integers(0, vocab, int(rows.sum()), np.int32),
        seq_lens=rows,
        context_lens=cached,
        page_indptr=indptr,
        page_ids=random.permutation(int(indptr[-1])).astype(np.int32),
        logit_rows=(np.cumsum(rows) - 1).astype(np.int32),
        temperature=np.zeros(n, np.float32),
        top_k=np.zeros(n, np.int32),
        top_p=np.ones(n, np.float32),
        seed=np.zeros(n, np.uint64),
        output_position=np.zeros(n, np.int32),
        want_logits=np.zeros(n, np.bool_),
    )


def prompts(num_sequences: int, length: int, vocab: int) -> StepArrays:
    return arrays_of(step_of([length] * num_sequences, [0] * num_sequences, vocab))


def decode(contexts: Sequence[int] | NDArray[np.int64], vocab: int) -> StepArrays:
    """One row a sequence, the last of its context."""
    lengths = np.ones(len(contexts), np.int64)
    return arrays_of(step_of(lengths, np.asarray(contexts) - 1, vocab))


def ragged_lengths(num_sequences: int, mean: int) -> NDArray[np.int64]:
    """Lengths from a quarter of the mean to 1.75 of it in random order; their sum is exact."""
    lengths = np.linspace(0.25 * mean, 1.75 * mean, num_sequences).astype(np.int64)
    missing = num_sequences * mean - int(lengths.sum())
    lengths[: abs(missing)] += np.sign(missing)
    return np.random.default_rng(3).permutation(lengths)


@dataclass(frozen=True, slots=True)
class Waves:
    """How a GEMM's tiles fall on the SMs."""

    tiles: int
    sms: int

    @property
    def waves(self) -> int:
        return -(-self.tiles // self.sms)

    @property
    def efficiency(self) -> float:
        """Share of the SMs' time that tiles can fill."""
        return self.tiles / (self.sms * self.waves)


def tiles_of(
    shape: ModelShape, limits: StepLimits, arrays: StepArrays, instruction: str, num_sms: int
) -> Waves:
    """Of all layers of the step's program."""
    return Waves(instruction_counts(shape, limits, arrays, num_sms)[instruction], num_sms)


def is_large(rows: int, cols: int) -> bool:
    """Whether a product has the 528 tiles from which on waves hardly matter."""
    return (rows // TILE_ROWS) * (cols // TILE_COLS) >= 528
