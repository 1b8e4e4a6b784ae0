"""ModelRunner: a model's weights in the machine's layout, and steps on it."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .packing import Shard, pack_layer, pack_lm_head, rope_table
from .step import PAGE_TOKENS, StepInput, StepOutput, StepTicket

if TYPE_CHECKING:
    from ._core import HostModel, StepArrays
    from .models.checkpoint import Checkpoint
    from .models.config import ModelConfig

# Attention over a long context is split at multiples of this many tokens; part of a model's bits.
SPLIT_TOKENS = 2048


def tensor_parallel_degrees(num_kv_heads: int, limit: int = 8) -> list[int]:
    """Numbers of GPUs that a model with so many KV heads can run on."""
    return [n for n in range(1, limit + 1) if num_kv_heads % n == 0]


def _require_positive(**values: int | None) -> None:
    for name, value in values.items():
        if value is not None and value < 1:
            raise ValueError(f"[runner] expected {name} of at least 1, got {value}")


def arrays_of(batch: StepInput) -> StepArrays:
    """The step's arrays as the compiled core takes them."""
    from ._core import StepArrays

    fields = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    return StepArrays(**fields)


class ModelRunner:
    """Runs steps of one model on the host machine.

    `gpus` virtual GPUs (the tensor-parallel degree) of `num_sms` virtual SMs each; `num_threads`
    threads share the SMs (default: as many as SMs). The same inputs give the same bits for every
    `num_sms` and `num_threads`. Raises ValueError for sizes that the model or machine cannot have.
    """

    page_size = PAGE_TOKENS

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        gpus: int = 1,
        num_sms: int | None = None,
        num_threads: int | None = None,
        max_batch_tokens: int = 2048,
        max_sequences: int = 256,
        max_model_len: int | None = None,
        num_pages: int | None = None,
        max_logit_rows: int | None = None,
        split_tokens: int = SPLIT_TOKENS,
        watchdog_seconds: float = 10.0,
        max_in_flight: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        from ._core import HostModel, ModelShape, StepLimits

        config = checkpoint.config
        degrees = tensor_parallel_degrees(config.num_kv_heads)
        if gpus not in degrees:
            raise ValueError(
                f"[runner] gpus={gpus} does not divide the model's {config.num_kv_heads} KV heads; "
                f"possible: {', '.join(map(str, degrees))}"
            )
        _require_positive(
            num_sms=num_sms,
            max_batch_tokens=max_batch_tokens,
            max_sequences=max_sequences,
            max_model_len=max_model_len,
            num_pages=num_pages,
            max_in_flight=max_in_flight,
        )
        self.config: ModelConfig = config
        self.gpus = gpus
        self.max_tokens = max_batch_tokens
        self.max_sequences = min(max_sequences, max_batch_tokens)
        self.max_model_len = config.max_position
        if max_model_len is not None:
            self.max_model_len = min(max_model_len, config.max_position)
        pages_each = -(-self.max_model_len // PAGE_TOKENS)
        self.num_pages = num_pages if num_pages is not None else 4 * pages_each
        self.max_logit_rows = max_logit_rows if max_logit_rows is not None else self.max_sequences
        if num_sms is None:
            num_sms = max(1, (os.cpu_count() or 1) // gpus)
        shape = ModelShape(
            num_layers=config.num_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            vocab=config.vocab_size,
            norm_eps=config.rms_norm_eps,
            world=gpus,
            split_tokens=split_tokens,
        )
        splits_each = -(-self.max_model_len // split_tokens)
        limits = StepLimits(
            max_rows=max_batch_tokens,
            max_sequences=self.max_sequences,
            max_position=self.max_model_len,
            num_pages=self.num_pages,
            max_logit_rows=self.max_logit_rows,
            max_partials=self.max_sequences * config.num_kv_heads * splits_each,
        )
        self._model = HostModel(
            shape,
            limits,
            num_sms=num_sms,
            num_threads=num_threads or 0,
            watchdog_seconds=watchdog_seconds,
        )
        self.max_in_flight = max_in_flight
        self._in_flight: deque[tuple[StepTicket, StepOutput]] = deque()
        self._num_submitted = 0
        self._load(checkpoint, progress)

    def step(self, batch: StepInput) -> StepOutput:
        """Runs one step; its K and V go to the batch's pages."""
        if self._in_flight:
            raise ValueError("[step] collect the steps in flight first")
        return self.collect(self.submit(batch))

    def submit(self, batch: StepInput) -> StepTicket:
        """Queues a step; on the host machine it runs at once."""
        if len(self._in_flight) >= self.max_in_flight:
            raise ValueError(f"[submit] expected at most {self.max_in_flight} steps in flight")
        output = StepOutput(*self._model.step(arrays_of(batch)))
        ticket = StepTicket(self._num_submitted)
        self._num_submitted += 1
        self._in_flight.append((ticket, output))
        return ticket

    def collect(self, ticket: StepTicket) -> StepOutput:
        """The results of the oldest step in flight."""
        if not self._in_flight or self._in_flight[0][0] != ticket:
            raise ValueError(f"[collect] {ticket} is not the oldest step in flight")
        return self._in_flight.popleft()[1]

    def verify(self, batch: StepInput) -> list[str]:
        """Problems that the verifier finds in the step's program: none, if it is sound."""
        return self._model.verify(arrays_of(batch))

    @property
    def core(self) -> HostModel:
        """The compiled model, for tests that drive the machine itself."""
        return self._model

    def _load(self, checkpoint: Checkpoint, progress: Callable[[int, int], None] | None) -> None:
        config = self.config
        shape = self._model.shape
        total = self.gpus * config.num_layers + 1
        embedding = np.ascontiguousarray(checkpoint.tensor("model.embed_tokens.weight"))
        lm_head: Any = embedding
        if not config.tie_word_embeddings:
            lm_head = np.ascontiguousarray(checkpoint.tensor("lm_head.weight"))
        done = 0
        for gpu in range(self.gpus):
            shard = Shard(config, gpu, self.gpus, shape.act_panels, shape.vocab_panels)
            for layer in range(config.num_layers):
                pack_layer(self._model, checkpoint, shard, layer)
                done += 1
                if progress is not None:
                    progress(done, total)
            pack_lm_head(self._model, lm_head, shard)
        final_norm = np.ascontiguousarray(checkpoint.tensor("model.norm.weight"))
        rope = rope_table(config.inv_freq(), self.max_model_len)
        self._model.set_tables(embedding, final_norm, np.ascontiguousarray(rope))
        if progress is not None:
            progress(total, total)
