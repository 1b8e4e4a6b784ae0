"""Turns planned chunks into the arrays of a step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..step import StepInput
from .request import pages_for
from .scheduler import Chunk


def rows_in_order(chunks: Sequence[Chunk]) -> list[Chunk]:
    """Chunks of one row first, as a step wants them."""
    return sorted(chunks, key=lambda chunk: chunk.num_rows > 1)


def build_step_input(chunks: Sequence[Chunk]) -> StepInput:
    """The step that computes the chunks, in their order; chunks that are last get a token."""
    requests = [chunk.request for chunk in chunks]
    seq_lens = np.array([chunk.num_rows for chunk in chunks], np.int32)
    context_lens = np.array([request.num_cached for request in requests], np.int32)
    ends = context_lens + seq_lens
    num_pages = [pages_for(int(end)) for end in ends]
    last_rows = np.cumsum(seq_lens, dtype=np.int32) - np.int32(1)
    is_last = np.array([chunk.is_last for chunk in chunks], np.bool_)
    sampled = [chunk.request for chunk in chunks if chunk.is_last]
    return StepInput(
        token_ids=np.concatenate(
            [
                request.tokens[start:end]
                for request, start, end in zip(requests, context_lens, ends, strict=True)
            ]
        ),
        seq_lens=seq_lens,
        context_lens=context_lens,
        page_indptr=np.concatenate([[0], np.cumsum(num_pages)]).astype(np.int32),
        page_ids=np.concatenate(
            [request.pages[:count] for request, count in zip(requests, num_pages, strict=True)]
        ),
        logit_rows=last_rows[is_last],
        temperature=np.array([r.params.temperature for r in sampled], np.float32),
        top_k=np.array([r.params.top_k for r in sampled], np.int32),
        top_p=np.array([r.params.top_p for r in sampled], np.float32),
        seed=np.array([r.seed for r in sampled], np.uint64),
        output_position=np.array([r.num_outputs for r in sampled], np.int32),
        want_logits=np.zeros(len(sampled), np.bool_),
    )
