"""What the engine reports about requests and about itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np

FinishReason = Literal["stop", "length", "abort"]

_TOKEN_BYTES = np.dtype(np.int32).itemsize


@dataclass(frozen=True, slots=True)
class RequestOutput:
    """All of one finished request.

    `token_ids` holds every generated token, an end-of-sequence token or those of a stop string
    included; `text` leaves them out, and is empty where the engine has no tokenizer. `logprobs`
    has one log-probability a token if the request asked for them.
    """

    request_id: int
    # Token ids as int32, native order: a ninth of the memory of a tuple, and made in a moment.
    prompt_data: bytes = field(repr=False)
    token_data: bytes = field(repr=False)
    text: str
    finish_reason: FinishReason
    logprobs: tuple[float, ...] | None

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        return _unpacked(self.prompt_data)

    @property
    def token_ids(self) -> tuple[int, ...]:
        return _unpacked(self.token_data)

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_data) // _TOKEN_BYTES

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_data) // _TOKEN_BYTES


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


def _unpacked(data: bytes) -> tuple[int, ...]:
    return tuple(np.frombuffer(data, np.int32).tolist())
