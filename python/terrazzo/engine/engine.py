"""Serves many requests with one runner, a step at a time."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..sampling import MAX_SEED, SamplingParams
from ..step import PAGE_TOKENS, Runner, StepOutput
from .batch import build_step_input, rows_in_order
from .outputs import EngineMetrics, FinishReason, RequestOutput, RequestUpdate
from .request import Request
from .scheduler import Chunk, Scheduler, SchedulerLimits
from .text_stream import Decoder, TextStream


def derived_seed(engine_seed: int, request_id: int) -> int:
    """Seed of a request that has none: 64 bits of BLAKE2b over both numbers (little-endian u64)."""
    digest = hashlib.blake2b(struct.pack("<QQ", engine_seed, request_id), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


class Engine:
    """Continuous batching over a runner: add requests, call `step` while there is work.

    Everything is a function of the calls: ids count from 0, and a request without a seed gets
    `derived_seed(seed, id)`. A request's outputs do not depend on the other requests. If the runner
    raises, the step did not happen: no request is lost and `step` may be called again. An engine
    belongs to one thread at a time.
    """

    def __init__(
        self,
        runner: Runner,
        eos_token_ids: Iterable[int] = (),
        *,
        decoder: Decoder | None = None,
        seed: int = 0,
        limits: SchedulerLimits | None = None,
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
        self._eos_token_ids = frozenset(eos_token_ids)
        self._decoder = decoder
        self._seed = seed
        self._scheduler = Scheduler(limits)
        self._requests: dict[int, Request] = {}
        self._next_id = 0
        self._num_steps = self._num_rows = self._num_generated = 0
        self._num_finished = self._num_aborted = 0

    def add_request(self, prompt_ids: ArrayLike, params: SamplingParams | None = None) -> int:
        """Queue a prompt and return its id; ValueError if it can never be served."""
        params = SamplingParams() if params is None else params
        prompt = self._checked_prompt(prompt_ids)
        if params.stop and self._decoder is None:
            raise ValueError("[Engine] stop strings need an engine with a decoder")
        request_id = self._next_id
        request = Request.create(
            request_id,
            prompt,
            params,
            seed=derived_seed(self._seed, request_id) if params.seed is None else params.seed,
            max_outputs=min(params.max_tokens, self._runner.max_model_len - len(prompt)),
            text=None if self._decoder is None else TextStream(self._decoder, params.stop),
        )
        self._scheduler.add(request)
        self._requests[request_id] = request
        self._next_id += 1
        return request_id

    def step(self) -> list[RequestUpdate]:
        """Run one step and return what it added, at most one update a request."""
        chunks = rows_in_order(self._scheduler.plan())
        if not chunks:
            return []
        batch = build_step_input(chunks)
        output = self._runner.step(batch)
        if len(output.tokens) != batch.num_logit_rows:
            raise RuntimeError(
                f"[Engine] expected {batch.num_logit_rows} tokens from the runner, got "
                f"{len(output.tokens)}"
            )
        self._num_steps += 1
        self._num_rows += batch.num_rows
        return self._commit(chunks, output)

    def abort(self, request_id: int) -> RequestOutput | None:
        """End a request now and return what it has; None if it has ended already."""
        request = self._requests.get(request_id)
        if request is None:
            if not 0 <= request_id < self._next_id:
                raise ValueError(f"[Engine] abort: no request ever had the id {request_id}")
            return None
        self._num_aborted += 1
        if request.text is not None:
            request.text.finish()
        return self._end(request, "abort")

    def has_work(self) -> bool:
        """Whether any request has not ended."""
        return bool(self._requests)

    def metrics(self) -> EngineMetrics:
        """A snapshot of counters and queues."""
        scheduler = self._scheduler
        return EngineMetrics(
            steps=self._num_steps,
            computed_rows=self._num_rows,
            generated_tokens=self._num_generated,
            preemptions=scheduler.num_preemptions,
            finished=self._num_finished,
            aborted=self._num_aborted,
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            free_pages=scheduler.allocator.num_free,
            num_pages=scheduler.allocator.num_pages,
        )

    def check(self) -> None:
        """Raise RuntimeError unless KV pages and queues are consistent; for tests and debugging."""
        self._scheduler.check()

    def _checked_prompt(self, prompt_ids: ArrayLike) -> NDArray[np.int32]:
        try:
            prompt = np.asarray(prompt_ids)
        except ValueError:  # ragged
            prompt = np.asarray(None)
        if prompt.size == 0:
            raise ValueError("[Engine] empty prompt: expected at least one token")
        if prompt.ndim != 1 or prompt.dtype.kind not in "iu":
            raise ValueError("[Engine] prompt: expected a flat list of integer token ids")
        vocab_size = self._runner.config.vocab_size
        outside = prompt[(prompt < 0) | (prompt >= vocab_size)]
        if outside.size:
            raise ValueError(
                f"[Engine] token id {outside[0]}: expected one in [0, {vocab_size - 1}]"
            )
        max_model_len = self._runner.max_model_len
        if prompt.size >= max_model_len:
            raise ValueError(
                f"[Engine] the prompt has {prompt.size} tokens, but the context of {max_model_len} "
                f"tokens has room for {max_model_len - 1} beside a generated one"
            )
        return prompt.astype(np.int32)

    def _commit(self, chunks: Sequence[Chunk], output: StepOutput) -> list[RequestUpdate]:
        updates = []
        tokens = zip(output.tokens.tolist(), output.logprobs.tolist(), strict=True)
        for chunk in chunks:
            is_last = chunk.is_last
            chunk.request.num_cached += chunk.num_rows
            if is_last:
                token_id, logprob = next(tokens)
                updates.append(self._append(chunk.request, token_id, logprob))
        return updates

    def _append(self, request: Request, token_id: int, logprob: float) -> RequestUpdate:
        self._num_generated += 1
        request.append(token_id, logprob)
        reason = self._finish_reason(request, token_id)
        text = "" if request.text is None else request.text.release(final=reason is not None)
        output = None
        if reason is not None:
            self._num_finished += 1
            output = self._end(request, reason)
        return RequestUpdate(request.request_id, token_id, logprob, text, output)

    def _finish_reason(self, request: Request, token_id: int) -> FinishReason | None:
        ends = token_id in self._eos_token_ids and not request.params.ignore_eos
        found_stop = not ends and request.text is not None and request.text.append(token_id)
        is_full = request.num_outputs == request.max_outputs
        if (ends or is_full) and not found_stop and request.text is not None:
            found_stop = request.text.finish()
        if ends or found_stop:
            return "stop"
        return "length" if is_full else None

    def _end(self, request: Request, reason: FinishReason) -> RequestOutput:
        self._scheduler.remove(request)
        del self._requests[request.request_id]
        return request.finished(reason)
