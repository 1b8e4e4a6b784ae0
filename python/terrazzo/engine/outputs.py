"""What the engine reports about requests and about itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """All of one finished request.

    `token_ids` holds every generated token, an end-of-sequence token or those of a stop string
    included; `text` leaves them out, and is empty where the engine has no tokenizer. `logprobs`
    has one log-probability a token if the request asked for them.
    """

    request_id: int
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    logprobs: tuple[float, ...] | None


@dataclass(frozen=True, slots=True)
class RequestUpdate:
    """What one step added to one request.

    `text` is the part that can no longer change: it may lag behind the tokens while a character is
    incomplete or a stop string may be under way. `output` is set by the last update of a request.
    """

    request_id: int
    token_id: int
    logprob: float
    text: str
    output: RequestOutput | None


@dataclass(frozen=True, slots=True)
class EngineMetrics:
    """Counts since the engine was made, and its state now."""

    steps: int
    computed_rows: int  # rows of all steps, recomputed ones included
    generated_tokens: int
    preemptions: int
    finished: int
    aborted: int
    running: int
    waiting: int
    free_pages: int
    num_pages: int
