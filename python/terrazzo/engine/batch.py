"""Turns the rows that were chosen for a step into its arrays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .._core import gather_pages
from ..step import PAGE_TOKENS, StepInput
from .sequence_table import SequenceTable, Slots

_INT32 = np.int32


@dataclass(frozen=True, slots=True, eq=False)
class StepPlan:
    """The sequences of a step, and which of them get a token; what `settle` and `undo` need.

    `serials` tell, when the step is collected, whether a slot still has the sequence that it had.
    """

    batch: StepInput
    slots: Slots  # [S]
    serials: NDArray[np.int64]  # [S]
    rows: NDArray[np.int32]  # [S]
    sampled: NDArray[np.int64]  # [R] indices into slots
    sampled_slots: Slots  # [R]
    num_decodes: int  # the first of the slots; the others compute parts of prompts

    @property
    def prompt_slots(self) -> Slots:
        return self.slots[self.num_decodes :]


def plan_step(
    table: SequenceTable, decodes: Slots, prompts: list[int], prompt_rows: list[int]
) -> StepPlan:
    """The step in which `decodes` compute their last token and `prompts` their next rows; the table
    then counts it as done. Prompts of one row are put first, as a step wants them.
    """
    order = sorted(range(len(prompts)), key=lambda i: prompt_rows[i] > 1)
    prompts = [prompts[i] for i in order]
    prompt_rows = [prompt_rows[i] for i in order]
    num_decodes = len(decodes)
    slots = np.concatenate([decodes, np.array(prompts, np.int64)])
    rows = np.ones(len(slots), _INT32)
    rows[num_decodes:] = prompt_rows
    context, known = table.cached[slots], table.known[slots]
    ends = context + rows
    sampled = np.flatnonzero(ends == known)
    # Mostly all of them: then a slice does what a gather would.
    chosen = sampled if len(sampled) < len(slots) else slice(None)
    sampled_slots = slots[chosen]
    last_rows = np.cumsum(rows, dtype=_INT32) - _INT32(1)
    page_indptr, page_ids = _page_lists(table, slots, ends)
    batch = StepInput(
        token_ids=_token_ids(table, decodes, known[:num_decodes], prompts, prompt_rows),
        seq_lens=rows,
        context_lens=context,
        page_indptr=page_indptr,
        page_ids=page_ids,
        logit_rows=last_rows[chosen],
        temperature=table.temperature[sampled_slots],
        top_k=table.top_k[sampled_slots],
        top_p=table.top_p[sampled_slots],
        seed=table.seed[sampled_slots],
        output_position=ends[chosen] - table.num_prompt[sampled_slots],
        want_logits=np.zeros(len(sampled), np.bool_),
    )
    table.cached[slots] = ends
    table.known[sampled_slots] = ends[chosen] + 1
    table.sampled_row[sampled_slots] = np.arange(len(sampled), dtype=_INT32)
    return StepPlan(batch, slots, table.serial[slots], rows, sampled, sampled_slots, num_decodes)


def undo(table: SequenceTable, plan: StepPlan) -> None:
    """Let the table forget a step that did not happen; the latest one first."""
    same = table.serial[plan.slots] == plan.serials
    slots = plan.slots[same]
    table.cached[slots] -= plan.rows[same]
    table.known[plan.sampled_slots[same[plan.sampled]]] -= 1


def _token_ids(
    table: SequenceTable,
    decodes: Slots,
    known: NDArray[np.int32],
    prompts: list[int],
    prompt_rows: list[int],
) -> NDArray[np.int32]:
    # A token on its way is named by its row in the step before: no other step can have sampled it.
    is_under_way = known > table.settled[decodes]
    last = np.where(is_under_way, -1 - table.sampled_row[decodes], table.last_token[decodes])
    parts = [last.astype(_INT32, copy=False)]
    starts = table.cached[prompts].tolist() if prompts else []
    for slot, start, rows in zip(prompts, starts, prompt_rows, strict=True):
        parts.append(table.request(slot).tokens[start : start + rows])
    return np.concatenate(parts)


def _page_lists(
    table: SequenceTable, slots: Slots, ends: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    counts = (ends + (PAGE_TOKENS - 1)) // PAGE_TOKENS
    indptr = np.zeros(len(slots) + 1, _INT32)
    np.cumsum(counts, out=indptr[1:])
    page_ids = np.empty(int(indptr[-1]), _INT32)
    # NumPy would make a list of all places first, and takes three times as long.
    gather_pages(page_ids, indptr, table.pages, slots)
    return indptr, page_ids
