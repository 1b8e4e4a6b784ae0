"""What a step's time depends on: the shapes that are swept over, and those of recorded steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from ..step import PAGE_TOKENS, StepInput

Part = tuple[int, int]  # of a sequence in a step: its rows, and the tokens that are cached before


class Room(NamedTuple):
    """What steps ask of a machine."""

    rows: int
    sequences: int
    pages: int
    tokens: int  # of the longest sequence

    @staticmethod
    def of(parts: Iterable[Part]) -> Room:
        """What one step of these sequences needs, each of them on pages of its own."""
        rows, context = np.array(list(parts), np.int64).reshape(-1, 2).T
        tokens = rows + context
        pages = -(-tokens // PAGE_TOKENS)
        return Room(int(rows.sum()), len(rows), int(pages.sum()), int(tokens.max(initial=0)))

    def fits_in(self, other: Room) -> bool:
        return all(mine <= theirs for mine, theirs in zip(self, other, strict=True))


class StepShape(NamedTuple):
    """A step by averages, as a sweep asks for it."""

    decodes: int  # sequences with one row
    context: int  # of these, on average
    prompt_rows: int
    prompt_context: int  # average position of these rows

    @property
    def rows(self) -> int:
        return self.decodes + self.prompt_rows

    def parts(self, max_sequences: int) -> list[Part]:
        """Its sequences. Prompt rows are one sequence, or several of equal size where they lie at
        low positions, as far as there may be so many."""
        decodes = [(1, self.context)] * self.decodes
        return decodes + self._prompts(max_sequences - self.decodes)

    def columns(self) -> dict[str, Any]:
        """For a table."""
        return self._asdict()

    def _prompts(self, most: int) -> list[Part]:
        if self.prompt_rows == 0:
            return []
        longest = max(2, 2 * self.prompt_context - 1)
        if longest >= self.prompt_rows:
            start = max(0, self.prompt_context - (self.prompt_rows + 1) // 2)
            return [(self.prompt_rows, start)]
        count = max(1, min(most, round(self.prompt_rows / longest)))
        sizes = [len(part) for part in np.array_split(np.arange(self.prompt_rows), count)]
        return [(size, 0) for size in sorted(sizes)]


class RecordedStep(NamedTuple):
    """A step of a run: of its decoding sequences together, of the others one by one.

    Nothing is rounded: a step that is built from it has as many rows, sequences, tokens and pages,
    and so room wherever the recorded one had it. Only how contexts differ among sequences that
    decode is lost.
    """

    decodes: int  # sequences with one row
    tokens: int  # that these have in all, with those of this step
    pages: int  # that these tokens lie on, were none shared
    logits: int  # rows that get a token
    prompts: tuple[Part, ...]  # sequences with more rows

    @staticmethod
    def of(batch: StepInput) -> RecordedStep:
        is_decode = batch.seq_lens == 1
        tokens = batch.context_lens[is_decode].astype(np.int64) + 1
        rows, context = batch.seq_lens[~is_decode], batch.context_lens[~is_decode]
        return RecordedStep(
            len(tokens),
            int(tokens.sum()),
            int((-(-tokens // PAGE_TOKENS)).sum()),
            batch.num_logit_rows,
            tuple(zip(rows.tolist(), context.tolist(), strict=True)),
        )

    @property
    def rows(self) -> int:
        return self.decodes + self.prompt_rows

    @property
    def prompt_rows(self) -> int:
        return sum(rows for rows, _ in self.prompts)

    @property
    def prompt_pairs(self) -> int:
        """Of a prompt's row and a token that it sees, twice their number."""
        return sum(rows * (2 * context + rows + 1) for rows, context in self.prompts)

    def parts(self) -> list[Part]:
        """Sequences with these sums: those that decode differ by a page at most, and leave as
        much of their last pages free."""
        parts: list[Part] = []
        if self.decodes:
            pages, longer = divmod(self.pages, self.decodes)
            free, freer = divmod(self.pages * PAGE_TOKENS - self.tokens, self.decodes)
            for i in range(self.decodes):
                tokens = (pages + (i < longer)) * PAGE_TOKENS - free - (i < freer)
                parts.append((1, tokens - 1))
        return parts + list(self.prompts)

    def room(self) -> Room:
        """What it needs."""
        return Room.of(self.parts())

    def columns(self) -> dict[str, Any]:
        """For a table, by averages."""
        return {
            "decodes": self.decodes,
            "context": round(self.tokens / self.decodes) - 1 if self.decodes else 0,
            "pages": self.pages,
            "prompts": len(self.prompts),
            "prompt_rows": self.prompt_rows,
            "prompt_context": self.prompt_pairs // max(1, 2 * self.prompt_rows),
        }


def room_for(steps: Iterable[RecordedStep]) -> Room:
    """A machine's, for any one of them."""
    rooms = [step.room() for step in steps]
    return Room(*(max(numbers) for numbers in zip(*rooms, strict=True)))
