"""A runner without a model: its next token is a hash of all it can read through the page table.

Pages are real: token ids are stored into them at each step and read back from them. A page that is
shared or lost, a wrong context length or a wrong page table therefore changes the output, or reads
poison, which is an error.
"""

from __future__ import annotations

import hashlib
from collections import deque

import numpy as np
from numpy.typing import NDArray

from terrazzo.models.config import ModelConfig
from terrazzo.step import PAGE_TOKENS, StepInput, StepOutput, StepTicket

POISON = -(2**31)


def tiny_config(vocab_size: int) -> ModelConfig:
    return ModelConfig(
        num_layers=1,
        hidden_size=64,
        intermediate_size=64,
        num_heads=1,
        num_kv_heads=1,
        head_dim=64,
        vocab_size=vocab_size,
        rms_norm_eps=1e-5,
        rope_theta=1e4,
        rope_scaling=None,
        max_position=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_ids=(0,),
    )


class MachineStoppedError(RuntimeError):
    """A step failed after it wrote its pages."""


class FakeRunner:
    """Keeps the Runner protocol; `fail_next` makes the next collected step raise
    MachineStoppedError. A step in flight has done its work already, also if it fails later.
    """

    def __init__(
        self,
        *,
        num_pages: int = 64,
        max_tokens: int = 256,
        max_sequences: int = 16,
        max_model_len: int = 1024,
        vocab_size: int = 64,
        max_in_flight: int = 1,
    ) -> None:
        self.config = tiny_config(vocab_size)
        self.num_pages = num_pages
        self.page_size = PAGE_TOKENS
        self.max_tokens = max_tokens
        self.max_sequences = max_sequences
        self.max_model_len = max_model_len
        self.max_in_flight = max_in_flight
        self.fail_next = False
        self.batches: list[StepInput] = []  # of collected steps
        self._in_flight: deque[tuple[StepTicket, StepInput, StepOutput]] = deque()
        self._num_submitted = 0
        self._pool = np.full((num_pages, PAGE_TOKENS), POISON, np.int32)
        self._sampled: NDArray[np.int32] = np.empty(0, np.int32)

    def step(self, batch: StepInput) -> StepOutput:
        assert not self._in_flight
        return self.collect(self.submit(batch))

    def submit(self, batch: StepInput) -> StepTicket:
        assert len(self._in_flight) < self.max_in_flight
        output = self._run(batch)
        ticket = StepTicket(self._num_submitted)
        self._num_submitted += 1
        self._in_flight.append((ticket, batch, output))
        return ticket

    def collect(self, ticket: StepTicket) -> StepOutput:
        oldest, batch, output = self._in_flight.popleft()
        assert oldest == ticket
        if self.fail_next:
            self.fail_next = False
            self._in_flight.clear()
            self._sampled = self._sampled[:0]
            raise MachineStoppedError
        self.batches.append(batch)
        return output

    def _run(self, batch: StepInput) -> StepOutput:
        self._check(batch)
        token_ids = self._resolved(batch.token_ids)
        starts = np.concatenate([[0], np.cumsum(batch.seq_lens)])
        for i in range(batch.num_sequences):
            context = int(batch.context_lens[i])
            self._append(self._pages(batch, i), context, token_ids[starts[i] : starts[i + 1]])
        tokens = np.empty(batch.num_logit_rows, np.int32)
        logprobs = np.empty(batch.num_logit_rows, np.float32)
        logits = np.zeros((int(batch.want_logits.sum()), self.config.vocab_size), np.float32)
        for k, row in enumerate(batch.logit_rows.tolist()):
            i = int(np.searchsorted(starts, row, side="right")) - 1
            length = int(batch.context_lens[i]) + row - int(starts[i]) + 1
            digest = self._hash(self._read(self._pages(batch, i), length), batch, k)
            tokens[k] = digest % self.config.vocab_size
            logprobs[k] = -float(digest % 1000) / 100
        logits[np.arange(len(logits)), tokens[batch.want_logits]] = 1
        self._sampled = tokens
        return StepOutput(tokens, logprobs, logits)

    def _check(self, batch: StepInput) -> None:
        assert batch.num_rows <= self.max_tokens
        assert batch.num_sequences <= self.max_sequences
        assert (batch.context_lens + batch.seq_lens).max() <= self.max_model_len
        assert batch.page_ids.max() < self.num_pages
        uses = np.bincount(batch.page_ids, minlength=self.num_pages)
        for i in range(batch.num_sequences):
            pages, context = self._pages(batch, i), int(batch.context_lens[i])
            assert len(set(pages.tolist())) == len(pages), "a page twice in a sequence"
            assert (uses[pages[context // PAGE_TOKENS :]] == 1).all(), "shared page is written"
        one_row = batch.seq_lens == 1
        assert (np.diff(one_row.astype(np.int8)) <= 0).all(), "decode rows come first"

    def _resolved(self, token_ids: NDArray[np.int32]) -> NDArray[np.int32]:
        resolved: NDArray[np.int32] = token_ids.copy()
        back = token_ids < 0
        resolved[back] = self._sampled[-token_ids[back] - 1]
        assert resolved.max() < self.config.vocab_size
        return resolved

    def _pages(self, batch: StepInput, i: int) -> NDArray[np.int32]:
        start, end = batch.page_indptr[i : i + 2].tolist()
        pages: NDArray[np.int32] = batch.page_ids[start:end]
        return pages

    def _append(self, pages: NDArray[np.int32], context: int, token_ids: NDArray[np.int32]) -> None:
        positions = np.arange(context, context + len(token_ids))
        # A page that is begun anew forgets its last owner.
        self._pool[pages[positions[positions % PAGE_TOKENS == 0] // PAGE_TOKENS]] = POISON
        self._pool[pages[positions // PAGE_TOKENS], positions % PAGE_TOKENS] = token_ids

    def _read(self, pages: NDArray[np.int32], length: int) -> NDArray[np.int32]:
        positions = np.arange(length)
        context: NDArray[np.int32]
        context = self._pool[pages[positions // PAGE_TOKENS], positions % PAGE_TOKENS]
        assert (context != POISON).all(), "read of a KV row that was never written"
        return context

    def _hash(self, context: NDArray[np.int32], batch: StepInput, k: int) -> int:
        digest = hashlib.blake2b(context.tobytes(), digest_size=8)
        if batch.temperature[k] > 0:
            for array in (
                batch.temperature,
                batch.top_k,
                batch.top_p,
                batch.seed,
                batch.output_position,
            ):
                digest.update(array[k].tobytes())
        return int.from_bytes(digest.digest(), "little")


def reference_tokens(
    prompt: list[int],
    count: int,
    *,
    sampling: tuple[float, int, float, int] = (0.0, 0, 1.0, 0),
    vocab_size: int = 64,
) -> list[int]:
    """The same tokens by the definition, without steps or pages; `sampling` ends with the seed."""
    temperature, top_k, top_p, seed = sampling
    tokens = list(prompt)
    for position in range(count):
        digest = hashlib.blake2b(np.array(tokens, np.int32).tobytes(), digest_size=8)
        if temperature > 0:
            for value in (
                np.float32(temperature),
                np.int32(top_k),
                np.float32(top_p),
                np.uint64(seed),
                np.int32(position),
            ):
                digest.update(value.tobytes())
        tokens.append(int.from_bytes(digest.digest(), "little") % vocab_size)
    return tokens[len(prompt) :]
