"""One step of a model: what the engine hands to a runner, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .models.config import ModelConfig

PAGE_TOKENS = 64  # tokens of one KV page

# As the methods `min` and `max`, which take another microsecond each.
_least, _most = np.minimum.reduce, np.maximum.reduce


@dataclass(frozen=True, slots=True)
class StepInput:
    """A ragged batch of T rows from S sequences, of which R rows get a sampled token.

    Sequences lie one after the other in row order, decode rows first. All arrays are C-contiguous.
    A token id of -(s + 1) stands for the token that the previous step sampled in its row s of
    `logit_rows`. Raises ValueError when the arrays contradict each other.
    """

    token_ids: NDArray[np.int32]  # [T]
    seq_lens: NDArray[np.int32]  # [S] rows of each sequence in this step
    context_lens: NDArray[np.int32]  # [S] tokens already in the KV cache
    page_indptr: NDArray[np.int32]  # [S + 1] where each sequence's pages start in page_ids
    page_ids: NDArray[np.int32]  # [page_indptr[S]]
    logit_rows: NDArray[np.int32]  # [R] ascending
    temperature: NDArray[np.float32]  # [R] 0 = greedy
    top_k: NDArray[np.int32]  # [R] 0 = off
    top_p: NDArray[np.float32]  # [R] 1 = off
    seed: NDArray[np.uint64]  # [R]
    output_position: NDArray[np.int32]  # [R] index of the token in its request's output
    want_logits: NDArray[np.bool_]  # [R] rows whose full logits are returned

    def __post_init__(self) -> None:
        rows, sequences, logits = len(self.token_ids), len(self.seq_lens), len(self.logit_rows)
        _check("StepInput", "token_ids", self.token_ids, np.int32, (rows,))
        _check("StepInput", "seq_lens", self.seq_lens, np.int32, (sequences,))
        _check("StepInput", "context_lens", self.context_lens, np.int32, (sequences,))
        _check("StepInput", "page_indptr", self.page_indptr, np.int32, (sequences + 1,))
        _check("StepInput", "page_ids", self.page_ids, np.int32, (len(self.page_ids),))
        _check("StepInput", "logit_rows", self.logit_rows, np.int32, (logits,))
        _check("StepInput", "temperature", self.temperature, np.float32, (logits,))
        _check("StepInput", "top_k", self.top_k, np.int32, (logits,))
        _check("StepInput", "top_p", self.top_p, np.float32, (logits,))
        _check("StepInput", "seed", self.seed, np.uint64, (logits,))
        _check("StepInput", "output_position", self.output_position, np.int32, (logits,))
        _check("StepInput", "want_logits", self.want_logits, np.bool_, (logits,))
        self._check_sequences()
        self._check_logit_rows()

    @property
    def num_rows(self) -> int:
        return len(self.token_ids)

    @property
    def num_sequences(self) -> int:
        return len(self.seq_lens)

    @property
    def num_logit_rows(self) -> int:
        return len(self.logit_rows)

    # Every step of thousands of sequences passes through here: extremes are looked at instead of
    # making arrays of truth values. A minimum or maximum that is nan fails its comparison.

    def _check_sequences(self) -> None:
        _require(self.num_sequences > 0, "expected at least one sequence, got none")
        _require(bool(_least(self.seq_lens) >= 1), "expected seq_lens >= 1, got a smaller one")
        total = int(np.add.reduce(self.seq_lens, dtype=np.int64))
        _require(total == self.num_rows, f"expected sum(seq_lens) = {self.num_rows}, got {total}")
        _require(bool(_least(self.context_lens) >= 0), "expected context_lens >= 0")
        first, last = int(self.page_indptr[0]), int(self.page_indptr[-1])
        pages = self.page_indptr[1:].astype(np.int64) - self.page_indptr[:-1]
        _require(
            first == 0 and bool(_least(pages) >= 0),
            "expected page_indptr to start at 0 and to ascend",
        )
        _require(
            last == len(self.page_ids),
            f"expected page_indptr[-1] = {len(self.page_ids)}, got {last}",
        )
        _require(bool(_least(self.page_ids, initial=0) >= 0), "expected page_ids >= 0")
        tokens = self.context_lens.astype(np.int64) + self.seq_lens
        is_short = pages * PAGE_TOKENS < tokens
        if np.count_nonzero(is_short):
            i = int(is_short.argmax())
            raise ValueError(
                f"[StepInput] sequence {i}: expected pages for {tokens[i]} tokens, got {pages[i]}"
            )

    def _check_logit_rows(self) -> None:
        rows = self.logit_rows
        if rows.size == 0:
            return
        if rows[0] < 0 or rows[-1] >= self.num_rows or np.count_nonzero(rows[1:] <= rows[:-1]):
            # Not built in vain: it lists thousands of rows.
            raise ValueError(
                f"[StepInput] expected logit_rows ascending in [0, {self.num_rows}), "
                f"got {rows.tolist()}"
            )
        _require(
            bool(_least(self.temperature) >= 0 and _most(self.temperature) < np.inf),
            "expected temperature finite and >= 0",
        )
        _require(bool(_least(self.top_k) >= 0), "expected top_k >= 0")
        _require(
            bool(_least(self.top_p) > 0 and _most(self.top_p) <= 1), "expected top_p in (0, 1]"
        )
        _require(bool(_least(self.output_position) >= 0), "expected output_position >= 0")


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step sampled, row by row of `StepInput.logit_rows`; V is the vocabulary size.

    `logprobs` are log-probabilities of the sampled tokens under the plain softmax (temperature 1,
    nothing cut off); `logits` holds the rows that asked for them, in order.
    """

    tokens: NDArray[np.int32]  # [R]
    logprobs: NDArray[np.float32]  # [R]
    logits: NDArray[np.float32]  # [want_logits.sum(), V]

    def __post_init__(self) -> None:
        _check("StepOutput", "tokens", self.tokens, np.int32, (len(self.tokens),))
        _check("StepOutput", "logprobs", self.logprobs, np.float32, (len(self.tokens),))
        if self.logits.ndim != 2 or self.logits.dtype != np.float32:
            raise ValueError(
                "[StepOutput] logits: expected float32 [rows, vocabulary], got "
                f"{self.logits.dtype} {list(self.logits.shape)}"
            )


@dataclass(frozen=True, slots=True)
class StepTicket:
    """A step that was submitted: `collect` takes it once, in order of submission."""

    number: int  # counts the runner's submissions from 0


class Runner(Protocol):
    """Runs steps of one model and owns its KV pages.

    A token's bits depend on its own sequence alone: not on the batch, on how a prompt was cut into
    chunks, or on which pages hold it. So whoever plans steps is free to batch, cut and recompute.

    `step` is `submit` and `collect` in one. Apart they let the next step be prepared, and queued
    behind this one, while this one runs: its rows may stand for tokens that are still on their way
    (see StepInput). Steps run in order of submission.
    """

    @property
    def config(self) -> ModelConfig: ...

    @property
    def num_pages(self) -> int:
        """KV pages; valid ids are 0 .. num_pages - 1."""

    @property
    def page_size(self) -> int:
        """Tokens of a KV page."""

    @property
    def max_tokens(self) -> int:
        """Most rows of a step."""

    @property
    def max_sequences(self) -> int:
        """Most sequences of a step."""

    @property
    def max_model_len(self) -> int:
        """Most tokens of a sequence, prompt and output together."""

    @property
    def max_in_flight(self) -> int:
        """Most steps that may be submitted and not yet collected."""

    def step(self, batch: StepInput) -> StepOutput:
        """Append the batch's rows to their KV pages and sample the rows that ask for a token.

        Nothing may be in flight. If it raises, the step did not happen.
        """

    def submit(self, batch: StepInput) -> StepTicket:
        """Queue a step behind those in flight; the arrays of `batch` are read before it returns.

        Raises ValueError if the batch is refused or `max_in_flight` steps are in flight already:
        then nothing is queued, and the steps in flight go on.
        """

    def collect(self, ticket: StepTicket) -> StepOutput:
        """Wait for the oldest step in flight, whose ticket this must be, and return its results.

        If it raises, this step did not happen, nor did those submitted after it: their tickets are
        void, nothing is in flight, and the runner can be used again.
        """


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"[StepInput] {message}")


def _check(
    owner: str, name: str, array: NDArray[Any], dtype: type[np.generic], shape: tuple[int, ...]
) -> None:
    if array.dtype != dtype or array.shape != shape or not array.flags.c_contiguous:
        layout = "contiguous" if array.flags.c_contiguous else "strided"
        raise ValueError(
            f"[{owner}] {name}: expected contiguous {np.dtype(dtype).name} {list(shape)}, got "
            f"{layout} {array.dtype} {list(array.shape)}"
        )
