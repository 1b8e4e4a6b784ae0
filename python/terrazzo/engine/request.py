"""One request on its way through the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..sampling import SamplingParams
from ..step import PAGE_TOKENS
from .outputs import FinishReason, RequestOutput
from .text_stream import TextStream


def pages_for(num_tokens: int) -> int:
    """KV pages that hold so many tokens."""
    return -(-num_tokens // PAGE_TOKENS)


@dataclass(slots=True, eq=False)
class Request:
    """Prompt and generated tokens in one array, of which the first `num_cached` are in KV pages.

    Recomputation needs nothing else: with `num_cached` back at 0 all tokens are a prompt again.
    """

    request_id: int
    params: SamplingParams
    seed: int
    num_prompt: int
    max_outputs: int
    tokens: NDArray[np.int32]  # [num_prompt + max_outputs], the first num_tokens are known
    text: TextStream | None
    num_tokens: int
    num_cached: int = 0
    pages: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, np.int32))
    logprobs: list[float] = field(default_factory=list)

    @classmethod
    def create(
        cls,
        request_id: int,
        prompt: NDArray[np.int32],
        params: SamplingParams,
        *,
        seed: int,
        max_outputs: int,
        text: TextStream | None,
    ) -> Request:
        tokens = np.concatenate([prompt, np.zeros(max_outputs, np.int32)])
        return cls(
            request_id, params, seed, len(prompt), max_outputs, tokens, text, num_tokens=len(prompt)
        )

    @property
    def num_outputs(self) -> int:
        return self.num_tokens - self.num_prompt

    @property
    def num_pending(self) -> int:
        """Known tokens that are not in the KV cache: one when decoding, more for a prompt."""
        return self.num_tokens - self.num_cached

    @property
    def is_decoding(self) -> bool:
        return self.num_outputs > 0 and self.num_pending == 1

    @property
    def most_pages(self) -> int:
        """Pages at its longest; the last output token never enters the cache."""
        return pages_for(self.num_prompt + self.max_outputs - 1)

    @property
    def output_ids(self) -> Sequence[int]:
        ids: list[int] = self.tokens[self.num_prompt : self.num_tokens].tolist()
        return ids

    def append(self, token_id: int, logprob: float) -> None:
        self.tokens[self.num_tokens] = token_id
        self.num_tokens += 1
        self.logprobs.append(logprob)

    def finished(self, reason: FinishReason) -> RequestOutput:
        return RequestOutput(
            request_id=self.request_id,
            prompt_token_ids=tuple(self.tokens[: self.num_prompt].tolist()),
            token_ids=tuple(self.output_ids),
            text="" if self.text is None else self.text.text,
            finish_reason=reason,
            logprobs=tuple(self.logprobs) if self.params.logprobs else None,
        )
