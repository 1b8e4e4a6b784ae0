"""Decides which rows of which sequences the next step computes."""

from __future__ import annotations

import numpy as np

from ..step import PAGE_TOKENS
from .batch import StepPlan, plan_step
from .kv_forecast import KvForecast
from .length_estimate import FIRST_GUESS, LengthEstimate
from .limits import SchedulerLimits
from .page_pool import PagePool
from .request import Request, pages_for
from .sequence_table import Newcomer, SequenceTable, Slots
from .waiting_queue import WaitingQueue

# Waiting requests that may not fit until the search for one that does ends, those that may wait for
# a prefix (the samples of some ten prompts do), and how many later ones may be admitted before a
# request. After that nobody is until it is.
LOOKAHEAD = 8
MAX_AWAITING = 64
MAX_OVERTAKEN = 64


class Scheduler:
    """Continuous batching, first come first served with a bound.

    Decoding sequences have a row in every step; what is left of the step's rows goes to prompts, in
    order of arrival. Preemption takes the youngest, so the oldest moves on in every step; each
    request fits into the KV cache alone; and no request is overtaken by more than MAX_OVERTAKEN
    later ones. So all of them end.
    """

    def __init__(
        self,
        limits: SchedulerLimits,
        max_model_len: int,
        *,
        prefix_reuse: bool = True,
        expected_outputs: float = FIRST_GUESS,
    ) -> None:
        self.limits = limits
        self.pool = PagePool(limits.num_pages)
        self.table = SequenceTable(limits.max_sequences, max_model_len)
        self.waiting = WaitingQueue()
        self.estimate = LengthEstimate(expected_outputs)
        self.num_preemptions = 0
        self.num_prompt_tokens = 0  # of requests when they were first admitted
        self.num_reused_tokens = 0  # found in the cache, not computed
        self._forecast = KvForecast(limits.num_pages, max_model_len)
        self._prefix_reuse = prefix_reuse
        # Pages that running prompts will fill -> serial of the sequence. Who needs such a page
        # waits for it.
        self._coming: dict[bytes, int] = {}

    def add(self, request: Request) -> None:
        """Queue a request; one that could not fit even alone raises ValueError."""
        if request.most_pages > self.limits.num_pages:
            raise ValueError(
                f"[Scheduler] a prompt of {request.num_prompt} tokens with up to "
                f"{request.max_outputs} generated ones may need {request.most_pages} KV pages, but "
                f"there are {self.limits.num_pages}: lower max_tokens or give more pages"
            )
        self.waiting.append(request)

    def plan(self) -> StepPlan | None:
        """Choose the next step's rows and count them as done; None if there is nothing to do now.

        A sequence whose last token is under way has nothing left to do.
        """
        table = self.table
        running = table.running
        known, cached = table.known[running], table.cached[running]
        is_prompt = cached < table.prefilled[running]
        is_decoding = ~is_prompt & (known < table.limit[running])
        decodes = self._with_pages(running[is_decoding][: self.limits.max_batch_tokens])
        budget = self.limits.max_batch_tokens - len(decodes)
        prompts, rows = self._prompts(running[is_prompt], budget)
        budget -= sum(rows)
        if budget > 0 and len(self.waiting):
            self._admit(budget, prompts, rows)
        if not prompts and not decodes.size:
            return None
        return plan_step(table, decodes, prompts, rows)

    def settle_prompts(self, plan: StepPlan) -> None:
        """After `settled_cached` has grown: let pages be found that a collected step filled."""
        if not self._prefix_reuse:
            return
        table = self.table
        same = table.serial[plan.prompt_slots] == plan.serials[plan.num_decodes :]
        slots = plan.prompt_slots[same]
        counts = np.minimum(table.settled_cached[slots], table.prefilled[slots]) // PAGE_TOKENS
        pages: list[int] = []
        keys: list[bytes] = []
        for slot, count in zip(slots.tolist(), counts.tolist(), strict=True):
            own, first = table.request(slot).keys, count
            while first > 0 and self._coming.pop(own[first - 1], None) is not None:
                first -= 1  # the pages before are done already
            if first < count:
                pages += table.pages[slot, first:count].tolist()
                keys += own[first:count]
        self.pool.register(pages, keys)

    def release(self, slots: list[int], *, keep_outputs: bool = True) -> None:
        """Take sequences out and free their pages.

        Pages of the outputs of a request can be found from then on if `keep_outputs` is set or it
        is streamed: others are hardly ever continued.
        """
        table = self.table
        counts, num_cached = table.num_pages[slots].tolist(), table.settled_cached[slots]
        # Of a prompt that is computed no page is to come.
        awaited = (num_cached < table.prefilled[slots]).tolist()
        serials = table.serial[slots].tolist()
        pages = [table.pages[slot, :count] for slot, count in zip(slots, counts, strict=True)]
        requests = table.remove(slots)
        for request, own, serial, cached, is_awaited in zip(
            requests, pages, serials, num_cached.tolist(), awaited, strict=True
        ):
            if not self._prefix_reuse:
                break
            for key in request.keys if is_awaited else ():
                if self._coming.get(key) == serial:
                    del self._coming[key]
            if keep_outputs or request.stream:
                keys = request.page_keys(min(cached, len(request.tokens)) // PAGE_TOKENS)
                self.pool.register(own.tolist(), keys)
        self.pool.release(np.concatenate(pages))
        table.drop_removed()

    def check(self) -> None:
        """Raise RuntimeError unless pages and queues are consistent."""
        table = self.table
        self.pool.check(table.pages_of(slot) for slot in table.running.tolist())
        taken = [slot for slot, request in enumerate(table.requests) if request is not None]
        if sorted(table.running.tolist()) != taken:
            raise RuntimeError(f"[Scheduler] slots {taken} are taken, {table.running} run")
        for name, order in (
            ("running", table.arrival[table.running].tolist()),
            ("waiting", [request.request_id for request in self.waiting]),
        ):
            if order != sorted(order):
                raise RuntimeError(f"[Scheduler] {name} requests out of order: {order}")
        if len(self.waiting) != sum(1 for _ in self.waiting):
            raise RuntimeError(f"[Scheduler] {len(self.waiting)} is not the number of waiting ones")
        if not taken and self._coming:
            raise RuntimeError("[Scheduler] pages are awaited that nobody computes")

    def check_idle(self) -> None:
        """Raise RuntimeError if pages, slots or places are still taken; when nobody is served."""
        if self.pool.num_free < self.pool.num_pages or self.table.running.size or self.waiting:
            self.check()
            raise RuntimeError("[Scheduler] idle, but pages, slots or places are still taken")

    def _with_pages(self, decodes: Slots) -> Slots:
        """Give decoding sequences their next page where they need one; returns those that can go
        on. The youngest are preempted while pages are short.
        """
        table = self.table
        needs = table.cached[decodes] >= table.num_pages[decodes] * PAGE_TOKENS
        while (count := int(np.count_nonzero(needs))) > self.pool.num_free:
            unfinished = table.running[table.known[table.running] < table.limit[table.running]]
            if len(unfinished) == 1:
                # Others have their last token under way and leave with their pages.
                return decodes[:0]
            self._preempt(int(unfinished[-1]))
            stay = table.serial[decodes] >= 0
            decodes, needs = decodes[stay], needs[stay]
        if count:
            slots = decodes[needs]
            table.pages[slots, table.num_pages[slots]] = self.pool.allocate(count)
            table.num_pages[slots] += 1
        return decodes

    def _preempt(self, slot: int) -> None:
        request = self.table.request(slot)
        self.release([slot])
        request.num_preempted += 1
        self.num_preemptions += 1
        self.waiting.put_back(request)

    def _prompts(self, slots: Slots, budget: int) -> tuple[list[int], list[int]]:
        """Running prompts and the rows that each gets."""
        table = self.table
        prompts: list[int] = []
        rows: list[int] = []
        for slot in slots.tolist():
            if budget == 0:
                break
            if table.serial[slot] >= 0:  # else it was preempted a moment ago
                prompts.append(slot)
                rows.append(self._rows_of(slot, budget))
                budget -= rows[-1]
        return prompts, rows

    def _rows_of(self, slot: int, budget: int) -> int:
        pending = int(self.table.known[slot] - self.table.cached[slot])
        return min(pending, self.limits.max_chunk_tokens, budget)

    def _admit(self, budget: int, prompts: list[int], rows: list[int]) -> None:
        """Start waiting requests while rows, slots and pages last; adds their first rows."""
        if self.table.num_free == 0:
            return
        self._start_forecast()
        table, waiting, most_rows = self.table, self.waiting, self.limits.max_chunk_tokens
        num_running, num_pages = len(table.running), 0
        newcomers: list[Newcomer] = []
        passed: list[tuple[Request, int]] = []  # and how many were admitted before
        num_new, num_passed, num_awaiting, most = 0, 0, 0, table.num_free
        while budget > 0 and num_new < most:
            request = waiting.at(num_passed)
            if request is None:
                break
            found = self._pages_found(request)
            newcomer = None
            if found is not None:
                newcomer = self._try_admit(request, found, num_running + num_new, num_pages)
            if newcomer is None:
                passed.append((request, num_new))
                num_passed += 1
                num_awaiting += found is None
                if num_passed - num_awaiting == LOOKAHEAD or num_awaiting == MAX_AWAITING:
                    break
                most = min(most, num_new + MAX_OVERTAKEN - request.num_overtaken)
                continue
            waiting.admit(num_passed)
            newcomers.append(newcomer)
            num_new += 1
            num_pages += newcomer.num_new
            prompts.append(newcomer.slot)
            pending = len(request.tokens) - len(newcomer.reused) * PAGE_TOKENS
            rows.append(min(pending, most_rows, budget))
            budget -= rows[-1]
        for request, num_before in passed:
            request.num_overtaken += num_new - num_before
        if newcomers:
            table.admit(newcomers, self.pool.allocate(num_pages))

    def _pages_found(self, request: Request) -> list[int] | None:
        """The pages that it can share; None if its next one is being computed by another request.

        Its last token is computed in any case: somebody must sample the next one.
        """
        if not self._prefix_reuse:
            return []
        if request.awaited in self._coming:
            return None
        num_tokens = len(request.tokens)
        keys = request.page_keys(num_tokens // PAGE_TOKENS)
        if num_tokens % PAGE_TOKENS == 0:
            keys = keys[:-1]
        found = self.pool.find(keys)
        if len(found) < len(keys) and (missing := keys[len(found)]) in self._coming:
            request.awaited = missing
            return None
        return found

    def _start_forecast(self) -> None:
        table = self.table
        running = table.running
        known = table.known[running]
        in_use = self.pool.num_pages - self.pool.num_free
        shared = int(np.add.reduce(table.num_pages[running])) - in_use
        self._forecast.start(
            known,
            table.limit[running] - known,
            table.has_open_end[running],
            mean_open=self.estimate.remaining,
            shared_tokens=shared * PAGE_TOKENS,
        )

    def _try_admit(
        self, request: Request, found: list[int], num_running: int, num_taken: int
    ) -> Newcomer | None:
        """Give a request a slot, and the pages that were found for it, if those that it needs are
        there and are expected to suffice; `num_taken` free ones belong to others that were admitted
        a moment ago.
        """
        pool = self.pool
        num_tokens, num_found = len(request.tokens), len(found)
        num_kept, num_new = pool.num_kept(found), pages_for(num_tokens) - num_found
        # Who was preempted returns when it will not be again at once.
        spare = len(self.table.running) if request.num_preempted else 0
        if num_new + num_kept + spare + num_taken > pool.num_free:
            return None
        most = request.num_prompt + request.max_outputs - num_tokens
        shared = (num_found - num_kept) * PAGE_TOKENS
        fits = self._forecast.admit(
            num_tokens, most, is_open=request.has_open_end, shared_tokens=shared
        )
        if not fits and num_running > 0:
            return None
        if found:
            # At once: what is taken cannot be handed out anew.
            pool.take(found)
        slot, serial = self.table.take_slot()
        self.num_reused_tokens += num_found * PAGE_TOKENS
        if not request.num_preempted:
            self.num_prompt_tokens += request.num_prompt
        self._coming.update(dict.fromkeys(request.keys[num_found:], serial))
        return Newcomer(slot, serial, request, found, num_new)
