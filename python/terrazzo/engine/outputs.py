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
    """What one step added to one request, or all of a request that is not streamed.

    `token_id` and `logprob` are those of its last token. `text` is the part that can no longer
    change: it may lag behind the tokens while a character is incomplete or a stop string may be
    under way. `output` is set by the last update of a request.
    """

    request_id: int
    token_id: int
    logprob: float
    text: str
    output: RequestOutput | None
