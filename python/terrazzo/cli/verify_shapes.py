"""The shapes of steps that `terrazzo verify` checks."""

from __future__ import annotations

from collections.abc import Sequence

from ..step import PAGE_TOKENS, Runner
from ..trace.steps import step_of

__all__ = ["SHAPES", "fits", "step_of"]

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
