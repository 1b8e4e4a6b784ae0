"""One request on its way through the engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..sampling import SamplingParams
from ..step import PAGE_TOKENS
from .outputs import FinishReason, RequestOutput
from .page_pool import ROOT_KEY, chain_keys
from .text_stream import TextStream

_NO_LOGPROBS = np.empty(0, np.float32)


def pages_for(num_tokens: int) -> int:
    """KV pages that hold so many tokens."""
    return -(-num_tokens // PAGE_TOKENS)


@dataclass(slots=True, eq=False)
class Request:
    """What is known of a request while it waits, and what it was given once it has left.

    While it runs, its state is a slot of the SequenceTable. Recomputation needs nothing but
    `tokens`: they are a prompt again.
    """

    request_id: int
    params: SamplingParams
    seed: int
    num_prompt: int
    max_outputs: int
    tokens: NDArray[np.int32]  # prompt, and outputs up to the last preemption or the end
    stream: bool  # whether each token is reported
    text: TextStream | None = None  # where text is needed token by token
    logprobs: NDArray[np.float32] = field(default_factory=lambda: _NO_LOGPROBS)  # of the outputs
    keys: list[bytes] = field(default_factory=list)  # of the first full pages of `tokens`
    awaited: bytes = ROOT_KEY  # the key of a page that another one was to compute
    num_preempted: int = 0
    num_overtaken: int = 0  # later requests that were admitted while this one waited
    slot: int | None = None  # while it runs
    is_waiting: bool = False
    has_ended: bool = False

    @property
    def num_outputs(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def most_pages(self) -> int:
        """Pages at its longest; the last output token never enters the cache."""
        return pages_for(self.num_prompt + self.max_outputs - 1)

    @property
    def has_open_end(self) -> bool:
        """Whether it may end before its `max_outputs` tokens."""
        return not self.params.ignore_eos or bool(self.params.stop)

    def page_keys(self, count: int) -> list[bytes]:
        """Keys of its first `count` pages, all of them full; computed once."""
        done = len(self.keys)
        if done < count:
            parent = self.keys[-1] if self.keys else ROOT_KEY
            self.keys += chain_keys(self.tokens[done * PAGE_TOKENS :], count - done, parent)
        return self.keys if count == len(self.keys) else self.keys[:count]

    def cut(self, num_outputs: int) -> None:
        """Forget outputs behind the first so many."""
        if num_outputs < self.num_outputs:
            self.tokens = self.tokens[: self.num_prompt + num_outputs]
            self.logprobs = self.logprobs[:num_outputs]

    def finished(self, reason: FinishReason, text: str) -> RequestOutput:
        return RequestOutput(
            request_id=self.request_id,
            prompt_data=self.tokens[: self.num_prompt].tobytes(),
            token_data=self.tokens[self.num_prompt :].tobytes(),
            text=text,
            finish_reason=reason,
            logprobs=tuple(self.logprobs.tolist()) if self.params.logprobs else None,
        )
