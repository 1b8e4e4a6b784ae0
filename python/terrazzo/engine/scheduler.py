"""Decides which rows of which requests the next step computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from ..step import Runner
from .block_allocator import BlockAllocator
from .request import Request, pages_for


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """What one step and the KV cache may hold; at most what the runner can do."""

    max_batch_tokens: int  # rows of a step
    max_chunk_tokens: int  # rows of one prompt in a step
    max_sequences: int
    num_pages: int

    def __post_init__(self) -> None:
        for name in (entry.name for entry in fields(self)):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"[SchedulerLimits] {name}: expected at least 1, got {value}")

    @classmethod
    def of(cls, runner: Runner) -> SchedulerLimits:
        """All that the runner can do."""
        return cls(runner.max_tokens, runner.max_tokens, runner.max_sequences, runner.num_pages)

    def check(self, runner: Runner) -> None:
        """Raise ValueError where the runner can do less."""
        able = SchedulerLimits.of(runner)
        for name in (entry.name for entry in fields(self)):
            if getattr(self, name) > getattr(able, name):
                raise ValueError(
                    f"[SchedulerLimits] {name}: expected at most the runner's "
                    f"{getattr(able, name)}, got {getattr(self, name)}"
                )


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next `num_rows` pending tokens of a request, to be computed in one step."""

    request: Request
    num_rows: int

    @property
    def is_last(self) -> bool:
        """Whether the last row sees all known tokens, so that a token is sampled there."""
        return self.num_rows == self.request.num_pending


class Scheduler:
    """Continuous batching, first come first served.

    Invariant: every running request arrived before every waiting one, and both are in order of
    arrival. Preemption takes the youngest, so the oldest request moves on in every step, and as
    each request fits into the KV cache alone, all of them end.
    """

    __slots__ = ("allocator", "limits", "num_preemptions", "running", "waiting")

    def __init__(self, limits: SchedulerLimits) -> None:
        self.limits = limits
        self.allocator = BlockAllocator(limits.num_pages)
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.num_preemptions = 0

    def add(self, request: Request) -> None:
        """Queue a request; one that could not fit even alone raises ValueError."""
        if request.most_pages > self.limits.num_pages:
            raise ValueError(
                f"[Scheduler] a prompt of {request.num_prompt} tokens with up to "
                f"{request.max_outputs} generated ones may need {request.most_pages} KV pages, but "
                f"there are {self.limits.num_pages}: lower max_tokens or give more pages"
            )
        self.waiting.append(request)

    def remove(self, request: Request) -> None:
        """Forget a request that has ended, and free its pages."""
        if request in self.running:
            self.running.remove(request)
        else:
            self.waiting.remove(request)
        self._release_pages(request)

    def plan(self) -> list[Chunk]:
        """Choose the next step's rows: decoding requests first, then prompt chunks.

        Planning again without a step in between gives the same rows.
        """
        chunks = list(self._plan_decodes())
        budget = self.limits.max_batch_tokens - len(chunks)
        chunks += self._plan_prompts(budget)
        return chunks

    def check(self) -> None:
        """Raise RuntimeError unless pages and queues are consistent."""
        self.allocator.check(request.pages for request in (*self.running, *self.waiting))
        order = [request.request_id for request in (*self.running, *self.waiting)]
        if order != sorted(order):
            raise RuntimeError(f"[Scheduler] requests out of order of arrival: {order}")

    def _plan_decodes(self) -> Iterator[Chunk]:
        # They fit into the step: each of them had a row in the step before, beside the others.
        index = 0
        # Preemption shortens `running` at its end only, behind the request that asked for a page.
        while index < len(self.running):
            request = self.running[index]
            index += 1
            if request.is_decoding and self._make_room(request):
                yield Chunk(request, 1)

    def _plan_prompts(self, budget: int) -> Iterator[Chunk]:
        index = 0
        while budget > 0 and (index < len(self.running) or self._admit()):
            request = self.running[index]
            index += 1
            if not request.is_decoding:
                rows = min(request.num_pending, self.limits.max_chunk_tokens, budget)
                budget -= rows
                yield Chunk(request, rows)

    def _make_room(self, request: Request) -> bool:
        """Give a decoding request its next page if it needs one; False when it was preempted."""
        if pages_for(request.num_tokens) <= len(request.pages):
            return True
        while self.allocator.num_free == 0:
            victim = self.running[-1]
            self._preempt(victim)
            if victim is request:
                return False
        request.pages = np.concatenate([request.pages, self.allocator.allocate(1)])
        return True

    def _preempt(self, victim: Request) -> None:
        self.running.remove(victim)
        self._release_pages(victim)
        victim.num_cached = 0
        self.waiting.appendleft(victim)
        self.num_preemptions += 1

    def _admit(self) -> bool:
        """Start the oldest waiting request if all its known tokens find pages.

        One page is kept back for each running request that may still grow, else a newcomer would
        often be preempted at once.
        """
        if not self.waiting or len(self.running) == self.limits.max_sequences:
            return False
        request = self.waiting[0]
        num_pages = pages_for(request.num_tokens)
        num_growing = sum(len(other.pages) < other.most_pages for other in self.running)
        if num_pages + num_growing > self.allocator.num_free:
            return False
        self.waiting.popleft()
        request.pages = self.allocator.allocate(num_pages)
        self.running.append(request)
        return True

    def _release_pages(self, request: Request) -> None:
        self.allocator.free(request.pages)
        request.pages = np.empty(0, np.int32)
