"""Steps and models to trace: what the command line names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..step import PAGE_TOKENS, StepInput

if TYPE_CHECKING:
    from .._core import ModelShape, StepLimits
    from ..models.config import ModelConfig

SPLIT_TOKENS = 2048

# layers, hidden, intermediate, heads, KV heads, head dimension, vocabulary
SHAPES: dict[str, tuple[int, int, int, int, int, int, int]] = {
    "llama-3.1-8b": (32, 4096, 14336, 32, 8, 128, 128256),
    "llama-3.1-70b": (80, 8192, 28672, 64, 8, 128, 128256),
    "llama-3.2-1b": (16, 2048, 8192, 32, 8, 64, 128256),
    "smollm2-135m": (30, 576, 1536, 9, 3, 64, 49152),
}

PART = re.compile(r"(\d+)(?:x(\d+))?@(\d+)")


def parse_step(text: str) -> list[tuple[int, int]]:
    """(context, rows) of each sequence of a step such as "1024@448,2x512@0": 1024 sequences that
    decode after 448 cached tokens, and 2 prompt chunks of 512 tokens at the beginning.
    """
    sequences = []
    for part in text.split(","):
        match = PART.fullmatch(part.strip())
        if match is None:
            raise ValueError(
                f"[step] {part.strip()!r}: expected COUNT@CONTEXT or COUNTxROWS@CONTEXT"
            )
        count, rows, context = int(match[1]), int(match[2] or 1), int(match[3])
        if count < 1 or rows < 1:
            raise ValueError(f"[step] {part.strip()!r}: expected at least one sequence and row")
        sequences += [(context, rows)] * count
    return sorted(sequences, key=lambda sequence: sequence[1] > 1)  # decode rows first


def step_of(sequences: Sequence[tuple[int, int]]) -> StepInput:
    """A greedy step with a token for each sequence's last row, on pages of their own."""
    contexts, rows = (np.array(column, np.int32) for column in zip(*sequences, strict=True))
    indptr = np.concatenate([[0], np.cumsum(-(-(contexts + rows) // PAGE_TOKENS))])
    count = len(sequences)
    return StepInput(
        token_ids=np.zeros(rows.sum(), np.int32),
        seq_lens=rows,
        context_lens=contexts,
        page_indptr=indptr.astype(np.int32),
        page_ids=np.arange(indptr[-1], dtype=np.int32),
        logit_rows=(np.cumsum(rows) - 1).astype(np.int32),
        temperature=np.zeros(count, np.float32),
        top_k=np.zeros(count, np.int32),
        top_p=np.ones(count, np.float32),
        seed=np.zeros(count, np.uint64),
        output_position=np.zeros(count, np.int32),
        want_logits=np.zeros(count, np.bool_),
    )


def shape_arguments(
    name: str, gpus: int, layers: int | None = None, *, o_sharded: bool = False
) -> dict[str, float]:
    """The arguments of the core's ModelShape for a known model on so many GPUs, with all of its
    layers or the first few."""
    if name not in SHAPES:
        raise ValueError(f"[trace] {name}: expected one of {', '.join(SHAPES)}")
    num_layers, hidden, intermediate, heads, kv_heads, head_dim, vocab = SHAPES[name]
    if layers is not None and not 1 <= layers <= num_layers:
        raise ValueError(f"[trace] layers: {name} has {num_layers}, got {layers}")
    return {
        "num_layers": layers or num_layers,
        "hidden": hidden,
        "intermediate": intermediate,
        "num_heads": heads,
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "vocab": vocab,
        "norm_eps": 1e-5,
        "world": gpus,
        "split_tokens": SPLIT_TOKENS,
        "o_sharded": o_sharded,
    }


def shape_of(
    name: str, gpus: int, layers: int | None = None, *, o_sharded: bool = False
) -> ModelShape:
    """The sizes of a known model on so many GPUs."""
    from .._core import ModelShape

    arguments: Any = shape_arguments(name, gpus, layers, o_sharded=o_sharded)
    return ModelShape(**arguments)


def config_arguments(
    config: ModelConfig, gpus: int, *, o_sharded: bool = False
) -> dict[str, float]:
    """The arguments of the core's ModelShape for an opened model."""
    return {
        "num_layers": config.num_layers,
        "hidden": config.hidden_size,
        "intermediate": config.intermediate_size,
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "vocab": config.vocab_size,
        "norm_eps": config.rms_norm_eps,
        "world": gpus,
        "split_tokens": SPLIT_TOKENS,
        "o_sharded": o_sharded,
    }


def limits_of(batch: StepInput) -> StepLimits:
    """Limits that a step just fits."""
    from .._core import StepLimits

    longest = int((batch.context_lens + batch.seq_lens).max())
    return StepLimits(
        max_rows=batch.num_rows,
        max_sequences=batch.num_sequences,
        max_position=longest,
        num_pages=len(batch.page_ids),
        max_logit_rows=batch.num_logit_rows,
        max_partials=batch.num_sequences * 8 * -(-longest // SPLIT_TOKENS),
    )
