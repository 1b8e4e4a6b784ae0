"""The shapes of steps that `terrazzo verify` checks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..step import PAGE_TOKENS, Runner, StepInput

# (name, [(context, rows) of each sequence]): edges of pages (64) and row blocks (128), then mixes.
SHAPES: tuple[tuple[str, Sequence[tuple[int, int]]], ...] = (
    ("first token", [(0, 1)]),
    ("one decode row", [(100, 1)]),
    ("decode at a page's first row", [(64, 1)]),
    ("8 decode rows", [(17 * i, 1) for i in range(8)]),
    ("64 decode rows", [(5 * i + 1, 1) for i in range(64)]),
    ("prompt of 63", [(0, 63)]),
    ("prompt of 64", [(0, 64)]),
    ("prompt of 129", [(0, 129)]),
    ("prompt chunk in mid-page", [(100, 150)]),
    ("three prompts", [(0, 30), (0, 200), (0, 77)]),
    ("decode rows and prompt chunks", [(300, 1), (63, 1), (7, 1), (128, 100), (0, 70)]),
    ("long context beside a chunk", [(4000, 1), (2047, 1), (2048, 90)]),
)


def fits(runner: Runner, sequences: Sequence[tuple[int, int]]) -> bool:
    """Whether the runner has room for a step of these sequences."""
    lengths = [context + rows for context, rows in sequences]
    return (
        sum(rows for _, rows in sequences) <= runner.max_tokens
        and len(sequences) <= runner.max_sequences
        and max(lengths) <= runner.max_model_len
        and sum(-(-length // PAGE_TOKENS) for length in lengths) <= runner.num_pages
    )


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
