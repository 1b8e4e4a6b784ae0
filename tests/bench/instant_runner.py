"""A machine that returns at once: what is left is the engine's own time."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np
from unit.engine.fake_runner import tiny_config

from terrazzo.step import PAGE_TOKENS, StepInput, StepOutput, StepTicket

VOCAB_SIZE = 32000
END_TOKEN = 0
_NUM_ROLLS = 64  # steps until the same tokens come again, one place on


class InstantRunner:
    """Keeps the Runner protocol; tokens are 5, and END_TOKEN with the chance `end_share`."""

    page_size = PAGE_TOKENS
    max_in_flight = 2

    def __init__(
        self,
        *,
        num_pages: int,
        max_tokens: int,
        max_sequences: int,
        max_model_len: int,
        end_share: float = 0.0,
    ) -> None:
        self.config = replace(tiny_config(VOCAB_SIZE), max_position=max_model_len)
        self.num_pages = num_pages
        self.max_tokens = max_tokens
        self.max_sequences = max_sequences
        self.max_model_len = max_model_len
        is_end = np.random.default_rng(0).random(_NUM_ROLLS * max_sequences) < end_share
        self._tokens = np.where(is_end, END_TOKEN, 5).astype(np.int32)
        self._logprobs = np.zeros(max_sequences, np.float32)
        self._logits = np.zeros((0, VOCAB_SIZE), np.float32)
        self._in_flight: deque[int] = deque()
        self._num_submitted = 0

    def step(self, batch: StepInput) -> StepOutput:
        return self.collect(self.submit(batch))

    def submit(self, batch: StepInput) -> StepTicket:
        self._in_flight.append(batch.num_logit_rows)
        self._num_submitted += 1
        return StepTicket(self._num_submitted - 1)

    def collect(self, ticket: StepTicket) -> StepOutput:
        rows = self._in_flight.popleft()
        first = ticket.number * (self.max_sequences + 1) % (len(self._tokens) - rows)
        return StepOutput(self._tokens[first : first + rows], self._logprobs[:rows], self._logits)
