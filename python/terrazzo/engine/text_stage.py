"""Turns tokens into text, beside the steps where these run ahead."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from .outputs import FinishReason
from .request import Request
from .text_stream import Decoder


class TextJob(NamedTuple):
    """New tokens of a request; `reason` says why they are its last ones."""

    request: Request
    token_ids: Sequence[int]  # one that was just sampled, or all outputs of a request without text
    logprob: float  # of the last
    num_outputs: int  # of the request, these included
    reason: FinishReason | None
    ends_with_eos: bool = False  # then the last token is no text


class TextResult(NamedTuple):
    """What a job's tokens made of the text."""

    job: TextJob
    piece: str  # what can no longer change
    text: str  # all of it, where the request ends
    reason: FinishReason | None  # a stop string may have ended it


class TextStage:
    """Works on jobs in order: at once, or on a thread of its own.

    A step's text is ready one step later on a thread; the results are the same. Every request is
    touched by the thread alone from its first job to its last result.
    """

    def __init__(self, decoder: Decoder | None, *, threaded: bool) -> None:
        self._decoder = decoder
        self._thread = ThreadPoolExecutor(1, "terrazzo-text") if threaded else None
        self._under_way: Future[list[TextResult]] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether results are to come."""
        return self._under_way is not None

    def exchange(self, jobs: list[TextJob]) -> list[TextResult]:
        """Hand in a step's jobs, and return results: of these jobs where there is no thread, else
        of those handed in before.
        """
        if self._thread is None:
            return self._work(jobs)
        results = self.finish()
        if jobs:
            self._under_way = self._thread.submit(self._work, jobs)
        return results

    def finish(self) -> list[TextResult]:
        """Wait for all results."""
        if self._under_way is None:
            return []
        future, self._under_way = self._under_way, None
        return future.result()

    def whole_text(self, token_ids: Sequence[int]) -> str:
        """The text of all outputs of a request."""
        return "" if self._decoder is None else self._decoder.decode(token_ids)

    def _work(self, jobs: list[TextJob]) -> list[TextResult]:
        return [result for job in jobs if (result := self._result(job)) is not None]

    def _result(self, job: TextJob) -> TextResult | None:
        stream, token_ids = job.request.text, job.token_ids
        if job.ends_with_eos:
            token_ids = token_ids[:-1]
        if stream is None:
            text = self.whole_text(token_ids)
            return TextResult(job, text, text, job.reason)
        if stream.has_ended:  # by a stop string, while later tokens were already under way
            return None
        found = any(stream.append(token) for token in token_ids)
        reason = "stop" if found else job.reason
        if reason is not None and not found and stream.finish():
            reason = "stop"
        piece = stream.release(final=reason is not None)
        stream.has_ended = reason is not None
        return TextResult(job, piece, "" if reason is None else stream.text, reason)
