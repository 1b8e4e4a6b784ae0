"""The running sequences as arrays: one slot each, one array for each property."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..step import PAGE_TOKENS
from .request import Request, pages_for

_FIRST_COLUMNS = 256  # outputs; the arrays grow when a sequence has more

Slots = NDArray[np.int64]  # indices into the arrays of a SequenceTable


def consecutive(first: NDArray[np.int64], counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """first[0], first[0] + 1, ... counts[0] numbers in all, then the same from first[1] on."""
    ends = np.cumsum(counts)
    numbers: NDArray[np.int64] = np.repeat(first - (ends - counts), counts)
    numbers += np.arange(len(numbers))
    return numbers


class Newcomer(NamedTuple):
    """An admitted request: its slot, its first pages, which are filled already, and how many empty
    ones it needs.
    """

    slot: int
    serial: int
    request: Request
    reused: list[int]
    num_new: int


def _row(newcomer: Newcomer) -> tuple[int, ...]:
    """Its numbers, in the order in which `SequenceTable.admit` takes them apart."""
    slot, serial, request, reused, num_new = newcomer
    params = request.params
    return (
        slot,
        len(reused),
        num_new,
        len(request.tokens),
        serial,
        request.request_id,
        request.num_prompt,
        request.num_prompt + request.max_outputs,
        int(request.tokens[-1]),
        params.top_k,
        params.ignore_eos,
        request.has_open_end,
        params.logprobs,
        request.stream or request.text is not None,
    )


class SequenceTable:
    """State of up to `capacity` sequences; what a step changes, it changes for all at once.

    A sequence has two states: as *planned*, which counts steps in flight as done, and as *settled*,
    which counts collected steps only. Tokens that are planned and not settled are known by their
    row in the step that samples them.
    """

    def __init__(self, capacity: int, max_model_len: int) -> None:
        self.requests: list[Request | None] = [None] * capacity
        # Counts admissions: tells a slot's sequence from one that had the slot, or itself, before.
        self.serial = np.full(capacity, -1, np.int64)
        self.arrival = np.zeros(capacity, np.int64)  # request ids
        self.num_prompt = np.zeros(capacity, np.int32)
        self.limit = np.zeros(capacity, np.int32)  # tokens at its longest
        self.prefilled = np.zeros(capacity, np.int32)  # tokens when it was admitted: its prompt
        self.known = np.zeros(capacity, np.int32)  # tokens, as planned
        self.cached = np.zeros(capacity, np.int32)  # tokens in KV pages, as planned
        self.settled = np.zeros(capacity, np.int32)  # tokens, as settled
        self.settled_cached = np.zeros(capacity, np.int32)
        self.last_token = np.zeros(capacity, np.int32)  # the last settled one
        self.sampled_row = np.zeros(capacity, np.int32)  # of the last planned token, in its step
        self.num_pages = np.zeros(capacity, np.int32)
        self.pages = np.zeros((capacity, pages_for(max_model_len)), np.int32)
        self.temperature = np.zeros(capacity, np.float32)
        self.top_k = np.zeros(capacity, np.int32)
        self.top_p = np.ones(capacity, np.float32)
        self.seed = np.zeros(capacity, np.uint64)
        self.ignores_eos = np.zeros(capacity, np.bool_)
        self.has_open_end = np.zeros(capacity, np.bool_)
        self.wants_logprobs = np.zeros(capacity, np.bool_)
        self.reports = np.zeros(capacity, np.bool_)  # someone looks at each of its tokens
        columns = min(_FIRST_COLUMNS, max_model_len)
        self.outputs = np.zeros((capacity, columns), np.int32)
        self.logprobs = np.zeros((capacity, columns), np.float32)
        self.running: Slots = np.empty(0, np.int64)  # in order of arrival
        self._free = list(range(capacity - 1, -1, -1))
        self._num_admitted = 0

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take_slot(self) -> tuple[int, int]:
        """A free slot, and the number of this admission: what its `serial` will be."""
        self._num_admitted += 1
        return self._free.pop(), self._num_admitted - 1

    def admit(self, newcomers: list[Newcomer], pages: NDArray[np.int32]) -> None:
        """Fill the slots of newcomers, all at once, and put them among the running ones; `pages`
        are the empty ones of all of them, in order.
        """
        rows = [_row(newcomer) for newcomer in newcomers]
        numbers = np.array(rows, np.int64).T
        slots, num_reused, num_new, num_tokens = numbers[:4]
        self.serial[slots], self.arrival[slots], self.num_prompt[slots] = numbers[4:7]
        self.limit[slots], self.last_token[slots], self.top_k[slots] = numbers[7:10]
        self.ignores_eos[slots], self.has_open_end[slots] = numbers[10:12]
        self.wants_logprobs[slots], self.reports[slots] = numbers[12:]
        self.prefilled[slots] = self.known[slots] = self.settled[slots] = num_tokens
        self.cached[slots] = self.settled_cached[slots] = num_reused * PAGE_TOKENS
        self.num_pages[slots] = num_reused + num_new
        params = [newcomer.request.params for newcomer in newcomers]
        self.temperature[slots] = [each.temperature for each in params]
        self.top_p[slots] = [each.top_p for each in params]
        seeds = [newcomer.request.seed for newcomer in newcomers]
        self.seed[slots] = np.array(seeds, np.uint64)
        first = slots * self.pages.shape[1] + num_reused
        self.pages.reshape(-1)[consecutive(first, num_new)] = pages
        for slot, _, request, reused, _ in newcomers:
            self.requests[slot], request.slot = request, slot
            if reused:
                self.pages[slot, : len(reused)] = reused
            if request.num_outputs:
                self._make_columns(request.num_outputs)
                self.outputs[slot, : request.num_outputs] = request.tokens[request.num_prompt :]
                if request.params.logprobs:
                    self.logprobs[slot, : request.num_outputs] = request.logprobs
        self._run(slots)

    def _run(self, slots: Slots) -> None:
        arrivals = self.arrival[slots]
        last = int(self.arrival[self.running[-1]]) if self.running.size else -1
        self.running = np.concatenate([self.running, slots])
        if arrivals[0] < last or np.count_nonzero(arrivals[1:] < arrivals[:-1]):
            order = np.argsort(self.arrival[self.running], kind="stable")
            self.running = self.running[order]

    def remove(self, slots: list[int]) -> list[Request]:
        """Give slots back; what their sequences were given is then in the requests, which are
        returned. `drop_removed` then takes the slots from the running ones.
        """
        requests = [self.request(slot) for slot in slots]
        counts = (self.settled[slots] - self.num_prompt[slots]).tolist()
        for slot, request, count in zip(slots, requests, counts, strict=True):
            if count > request.num_outputs:
                if request.params.logprobs:
                    request.logprobs = self.logprobs[slot, :count].copy()
                prompt = request.tokens[: request.num_prompt]
                request.tokens = np.concatenate([prompt, self.outputs[slot, :count]])
            self.requests[slot] = request.slot = None
        self.serial[slots] = -1
        self._free += slots
        return requests

    def drop_removed(self) -> None:
        """Take removed slots from the running ones."""
        self.running = self.running[self.serial[self.running] >= 0]

    def request(self, slot: int) -> Request:
        """The request of a slot that is taken."""
        request = self.requests[slot]
        if request is None:
            raise RuntimeError(f"[SequenceTable] slot {slot} is free")
        return request

    def pages_of(self, slot: int) -> NDArray[np.int32]:
        """A view of the slot's pages, in order."""
        pages: NDArray[np.int32] = self.pages[slot, : self.num_pages[slot]]
        return pages

    def settle(
        self, slots: Slots, tokens: NDArray[np.int32], logprobs: NDArray[np.float32]
    ) -> NDArray[np.int32]:
        """Append a collected token to each of the slots; returns outputs of each so far."""
        settled = self.settled[slots]
        columns = settled - self.num_prompt[slots]
        if columns.size:
            self._make_columns(int(np.maximum.reduce(columns)) + 1)
        # One index into the flat array is faster than two. Rows lie far from each other, so writing
        # the second array takes as long again.
        places = slots * self.outputs.shape[1] + columns
        self.outputs.reshape(-1)[places] = tokens
        wants = self.wants_logprobs[slots]
        if np.count_nonzero(wants):
            self.logprobs.reshape(-1)[places[wants]] = logprobs[wants]
        self.last_token[slots] = tokens
        self.settled[slots] = settled + 1
        return columns + 1

    def _make_columns(self, count: int) -> None:
        columns = self.outputs.shape[1]
        if count > columns:
            wider = ((0, 0), (0, max(count, 2 * columns) - columns))
            self.outputs = np.pad(self.outputs, wider)
            self.logprobs = np.pad(self.logprobs, wider)
