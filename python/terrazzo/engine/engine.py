"""Serves many requests with one runner, a step at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from time import perf_counter
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..sampling import MAX_SEED, SamplingParams, derived_seed
from ..step import PAGE_TOKENS, Runner, StepOutput, StepTicket
from .batch import StepPlan, undo
from .length_estimate import FIRST_GUESS
from .limits import SchedulerLimits
from .metrics import EngineMetrics, FlopCounter, StepTimes
from .outputs import FinishReason, RequestOutput, RequestUpdate
from .prompt import checked_prompt
from .request import Request
from .scheduler import Scheduler
from .text_stage import TextJob, TextResult, TextStage
from .text_stream import Decoder, TextStream

# A step is planned while one runs. Deeper would plan with tokens that not even the step before
# has sampled yet, and keep the machine no busier.
MAX_IN_FLIGHT = 2


class _InFlight(NamedTuple):
    plan: StepPlan
    ticket: StepTicket


class _Clock:
    """Adds up where the engine's thread spends its time."""

    __slots__ = ("commit", "first", "last", "plan", "submit", "text", "wait")

    def __init__(self) -> None:
        self.plan = self.submit = self.wait = self.commit = self.text = 0.0
        self.first = self.last = 0.0

    def times(self) -> StepTimes:
        elapsed = max(0.0, self.last - self.first)
        return StepTimes(self.plan, self.submit, self.wait, self.commit, self.text, elapsed)


class Engine:
    """Continuous batching over a runner: add requests, call `step` while there is work.

    Everything is a function of the calls: ids count from 0, and a request without a seed gets
    `derived_seed(seed, id)`. A request's outputs do not depend on the other requests. If the runner
    raises, the steps in flight did not happen: no request is lost and `step` may be called again.
    An engine belongs to one thread at a time.

    Where the runner allows two steps in flight, the next step is submitted before the results of
    the one before are known (`run_ahead`); a request that ends by a token then leaves one step
    later, and updates with text come one step after their tokens. Prompts that begin like one whose
    pages are still in the cache take these (`prefix_reuse`). `expected_outputs` is a first guess of
    the tokens that a request gets whose end is open; the engine learns better.
    """

    def __init__(
        self,
        runner: Runner,
        eos_token_ids: Iterable[int] = (),
        *,
        decoder: Decoder | None = None,
        seed: int = 0,
        limits: SchedulerLimits | None = None,
        prefix_reuse: bool = True,
        run_ahead: bool = True,
        expected_outputs: float = FIRST_GUESS,
    ) -> None:
        if runner.page_size != PAGE_TOKENS:
            raise ValueError(
                f"[Engine] runner.page_size: expected {PAGE_TOKENS}, got {runner.page_size}"
            )
        if not 0 <= seed <= MAX_SEED:
            raise ValueError(f"[Engine] seed: expected an integer in [0, {MAX_SEED}], got {seed}")
        limits = SchedulerLimits.of(runner) if limits is None else limits
        limits.check(runner)
        self._runner = runner
        self._eos_token_ids = np.array(sorted(set(eos_token_ids)), np.int32)
        self._decoder = decoder
        self._seed = seed
        self._scheduler = Scheduler(
            limits,
            runner.max_model_len,
            prefix_reuse=prefix_reuse,
            expected_outputs=expected_outputs,
        )
        self._table = self._scheduler.table
        self._depth = min(runner.max_in_flight, MAX_IN_FLIGHT) if run_ahead else 1
        self._in_flight: deque[_InFlight] = deque()
        self._text = TextStage(decoder, threaded=self._depth > 1)
        self._updates: list[RequestUpdate] = []  # not returned yet
        self._requests: dict[int, Request] = {}  # those that have not ended
        self._next_id = 0
        self._num_steps = self._num_rows = self._num_generated = 0
        self._num_finished = self._num_aborted = 0
        self._flop_counter, self._flops = FlopCounter(runner.config), 0.0
        self._clock = _Clock()

    def add_request(
        self, prompt_ids: ArrayLike, params: SamplingParams | None = None, *, stream: bool = True
    ) -> int:
        """Queue a prompt and return its id; ValueError if it can never be served.

        A request that is streamed gets an update a token, another one a single update at its end.
        """
        params = SamplingParams() if params is None else params
        runner = self._runner
        prompt = checked_prompt(prompt_ids, runner.config.vocab_size, runner.max_model_len)
        if params.stop and self._decoder is None:
            raise ValueError("[Engine] stop strings need an engine with a decoder")
        has_text = self._decoder is not None and (stream or params.stop)
        request_id = self._next_id
        request = Request(
            request_id,
            params,
            derived_seed(self._seed, request_id) if params.seed is None else params.seed,
            num_prompt=len(prompt),
            max_outputs=min(params.max_tokens, runner.max_model_len - len(prompt)),
            tokens=prompt,
            stream=stream,
            text=TextStream(self._decoder, params.stop) if has_text and self._decoder else None,
        )
        self._scheduler.add(request)
        self._requests[request_id] = request
        self._next_id += 1
        return request_id

    def step(self) -> list[RequestUpdate]:
        """Submit steps while there is something to do and room, collect one, and return what is
        new: at most one update a request and step.
        """
        self._submit_steps()
        if self._in_flight:
            self._collect_step()
        elif self._scheduler.waiting and not self._text.is_busy:
            raise RuntimeError("[Engine] requests wait, but no step can be planned")
        if not self._in_flight:
            self._take_texts(self._text.finish())
        if not self._requests:
            # The last step may have been for nobody: leave the runner, and all pages, free.
            while self._in_flight:
                self._collect_step()
            self._scheduler.check_idle()
        updates, self._updates = self._updates, []
        return updates

    def abort(self, request_id: int) -> RequestOutput | None:
        """End a request now and return what it has; None if its end was reported already."""
        if not 0 <= request_id < self._next_id:
            raise ValueError(f"[Engine] abort: no request ever had the id {request_id}")
        if request_id in self._requests:
            self._take_texts(self._text.finish())
        ended = [u.output for u in self._updates if u.request_id == request_id and u.output]
        self._updates = [u for u in self._updates if u.request_id != request_id]
        request = self._requests.get(request_id)
        if request is None:
            return ended[0] if ended else None
        self._leave(request)
        self._num_aborted += 1
        return self._end(request, "abort", self._text_at_abort(request))

    @property
    def num_waiting(self) -> int:
        """Requests that have not been admitted, or were preempted."""
        return len(self._scheduler.waiting)

    def has_work(self) -> bool:
        """Whether any request has not ended, or its end was not reported."""
        return bool(self._requests or self._updates)

    def metrics(self) -> EngineMetrics:
        """A snapshot of counters and queues."""
        scheduler = self._scheduler
        return EngineMetrics(
            steps=self._num_steps,
            computed_rows=self._num_rows,
            prompt_tokens=scheduler.num_prompt_tokens,
            reused_tokens=scheduler.num_reused_tokens,
            generated_tokens=self._num_generated,
            preemptions=scheduler.num_preemptions,
            finished=self._num_finished,
            aborted=self._num_aborted,
            running=len(self._table.running),
            waiting=len(scheduler.waiting),
            preempted=scheduler.waiting.num_preempted,
            free_pages=scheduler.pool.num_free,
            cached_pages=scheduler.pool.num_cached,
            num_pages=scheduler.pool.num_pages,
            model_flops=self._flops,
            times=self._clock.times(),
        )

    def check(self) -> None:
        """Raise RuntimeError unless KV pages and queues are consistent; for tests and debugging."""
        self._scheduler.check()

    def forget_prefixes(self) -> None:
        """Compute every prompt that comes anew, as a fresh engine would."""
        self._scheduler.pool.forget()

    def _submit_steps(self) -> None:
        clock = self._clock
        while len(self._in_flight) < self._depth:
            start = perf_counter()
            plan = self._scheduler.plan()
            planned = perf_counter()
            clock.plan += planned - start
            if plan is None:
                return
            try:
                ticket = self._runner.submit(plan.batch)
            except BaseException:
                undo(self._table, plan)
                raise
            clock.submit += perf_counter() - planned
            clock.first = clock.first or planned
            self._in_flight.append(_InFlight(plan, ticket))

    def _collect_step(self) -> None:
        clock, start = self._clock, perf_counter()
        plan, ticket = self._in_flight[0]
        try:
            output = self._runner.collect(ticket)
            if len(output.tokens) != plan.batch.num_logit_rows:
                raise RuntimeError(
                    f"[Engine] expected {plan.batch.num_logit_rows} tokens from the runner, got "
                    f"{len(output.tokens)}"
                )
        except BaseException:
            # This step and those behind it did not happen.
            while self._in_flight:
                undo(self._table, self._in_flight.pop().plan)
            raise
        self._in_flight.popleft()
        clock.last = perf_counter()
        clock.wait += clock.last - start
        jobs = self._settle(plan, output)
        settled = perf_counter()
        clock.commit += settled - clock.last
        self._take_texts(self._text.exchange(jobs) if self._decoder else _without_text(jobs))
        clock.text += perf_counter() - settled

    def _settle(self, plan: StepPlan, output: StepOutput) -> list[TextJob]:
        """Enter a step's results into the table; returns what is to be reported."""
        table = self._table
        self._num_steps += 1
        self._num_rows += plan.batch.num_rows
        self._flops += self._flop_counter.of(plan.batch)
        slots, tokens, logprobs = plan.sampled_slots, output.tokens, output.logprobs
        same = table.serial[plan.slots] == plan.serials
        if np.count_nonzero(same) == len(same):
            table.settled_cached[plan.slots] += plan.rows
        else:
            # Sequences that left since the step was planned get nothing.
            table.settled_cached[plan.slots[same]] += plan.rows[same]
            is_live = same[plan.sampled]
            slots, tokens, logprobs = slots[is_live], tokens[is_live], logprobs[is_live]
        if plan.num_decodes < len(plan.slots):
            self._scheduler.settle_prompts(plan)
        counts = table.settle(slots, tokens, logprobs)
        self._num_generated += len(slots)
        is_eos = self._is_eos(tokens) & ~table.ignores_eos[slots]
        is_last = is_eos | (table.settled[slots] == table.limit[slots])
        is_open = table.has_open_end[slots]
        self._scheduler.estimate.observe(
            int(np.count_nonzero(is_open)), int(np.count_nonzero(is_eos))
        )
        noted = np.flatnonzero(is_last | table.reports[slots])
        requests = [table.request(slot) for slot in slots[noted].tolist()]
        if np.count_nonzero(is_last):
            self._scheduler.release(slots[is_last].tolist(), keep_outputs=False)
        jobs: list[TextJob] = []
        for request, token, logprob, count, ends, by_eos in zip(
            requests,
            tokens[noted].tolist(),
            logprobs[noted].tolist(),
            counts[noted].tolist(),
            is_last[noted].tolist(),
            is_eos[noted].tolist(),
            strict=True,
        ):
            reason: FinishReason | None = None
            if ends:
                reason = "stop" if by_eos else "length"
            ids = [token]
            if request.text is None and ends and self._decoder is not None:
                ids = request.tokens[request.num_prompt :].tolist()
            jobs.append(TextJob(request, ids, logprob, count, reason, by_eos))
        return jobs

    def _is_eos(self, tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        found = np.zeros(len(tokens), np.bool_)
        for eos in self._eos_token_ids:
            found |= tokens == eos
        return found

    def _take_texts(self, results: list[TextResult]) -> None:
        """Make updates of texts, and end requests that a stop string ended."""
        for result in results:
            job, request = result.job, result.job.request
            if request.has_ended:
                continue
            output = None
            if result.reason is not None:
                self._leave(request)
                request.cut(job.num_outputs)
                if job.reason is None:
                    self._scheduler.estimate.observe(0, 1)
                self._num_finished += 1
                output = self._end(request, result.reason, result.text)
            if request.stream or output is not None:
                text = result.piece if request.stream else result.text
                update = RequestUpdate(
                    request.request_id, job.token_ids[-1], job.logprob, text, output
                )
                self._updates.append(update)

    def _leave(self, request: Request) -> None:
        """Take a request from wherever it is."""
        if request.slot is not None:
            self._scheduler.release([request.slot])
        elif request.is_waiting:
            self._scheduler.waiting.remove(request)

    def _end(self, request: Request, reason: FinishReason, text: str) -> RequestOutput:
        request.has_ended = True
        del self._requests[request.request_id]
        return request.finished(reason, text)

    def _text_at_abort(self, request: Request) -> str:
        if request.text is None:
            return self._text.whole_text(request.tokens[request.num_prompt :].tolist())
        request.text.finish()
        return request.text.text


def _without_text(jobs: list[TextJob]) -> list[TextResult]:
    return [TextResult(job, "", "", job.reason) for job in jobs]
