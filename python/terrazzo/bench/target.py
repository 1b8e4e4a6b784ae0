"""The runner that is measured."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .. import env
from ..capacity import kv_page_bytes
from ..device import resolve_device
from ..step import PAGE_TOKENS
from .shapes import SHAPES
from .step_shapes import Room

if TYPE_CHECKING:
    from ..models.checkpoint import Checkpoint
    from ..models.tokenizer import Tokenizer
    from ..runner import ModelRunner

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Target:
    """What to measure: a model, or a shape with random weights, and how large its machine is."""

    model: str | None = None
    shape: str | None = None
    load_format: str = "auto"
    device: str = "auto"
    gpus: int = 1
    ranks_per_gpu: int = 1
    o_proj: str = "auto"
    order: str = "layers"
    num_sms: int | None = None
    num_threads: int | None = None
    max_batch_tokens: int = 2048
    max_sequences: int = 512
    max_model_len: int = 2048
    kv_pages: int | None = None
    gpu_memory_utilization: float = 0.9

    def __post_init__(self) -> None:
        if self.model is not None and self.shape is not None:
            raise ValueError("[bench] expected a model or a shape, got both")
        if self.shape is not None and self.shape not in SHAPES:
            raise ValueError(f"[bench] shape {self.shape!r}: expected one of {', '.join(SHAPES)}")

    @property
    def weights(self) -> str:
        """Where they come from, for the report."""
        return "random" if self.shape or self.load_format == "dummy" else "the model's"

    def with_room(self, room: Room, most_pages: int | None = None) -> Target:
        """As large as it is, and large enough; pages are those that were asked for, or as many as
        are needed but at most so many."""
        pages = room.pages if most_pages is None else min(room.pages, most_pages)
        return dataclasses.replace(
            self,
            max_batch_tokens=max(self.max_batch_tokens, room.rows),
            max_sequences=max(self.max_sequences, room.sequences),
            max_model_len=max(self.max_model_len, room.tokens),
            kv_pages=pages if self.kv_pages is None else self.kv_pages,
        )

    def open(self) -> tuple[ModelRunner, Tokenizer | None]:
        """Its runner, with the tokenizer where a model has one."""
        from ..runner import ModelRunner

        checkpoint, tokenizer = self._checkpoint()
        device = resolve_device(
            self.device,
            gpus=self.gpus,
            ranks_per_gpu=self.ranks_per_gpu,
            num_threads=self.num_threads,
        )
        max_model_len = min(self.max_model_len, checkpoint.config.max_position)
        kv_pages = self.kv_pages
        if kv_pages is None and device == "host":
            affordable = int(env.KV_GIB.read() * 2**30) // kv_page_bytes(checkpoint.config)
            most = self.max_sequences * -(-max_model_len // PAGE_TOKENS)
            kv_pages = max(1, min(affordable, most))
        runner = ModelRunner(
            checkpoint,
            device=device,
            gpus=self.gpus,
            ranks_per_gpu=self.ranks_per_gpu,
            o_proj=self.o_proj,
            order=self.order,
            num_sms=self.num_sms,
            num_threads=self.num_threads,
            max_batch_tokens=self.max_batch_tokens,
            max_sequences=self.max_sequences,
            max_model_len=max_model_len,
            num_pages=kv_pages,
            gpu_memory_utilization=self.gpu_memory_utilization,
            # Tokens are chosen greedily, which needs no logits.
            max_logit_rows=self.max_sequences,
        )
        _log.info("%d KV pages, at most %d rows a step", runner.num_pages, runner.max_tokens)
        return runner, tokenizer

    def _checkpoint(self) -> tuple[Checkpoint, Tokenizer | None]:
        if self.shape is not None:
            from ..models.dummy import DummyCheckpoint

            return DummyCheckpoint(SHAPES[self.shape]), None
        from ..models.loader import DEFAULT_MODEL, open_model

        name = env.MODEL.read() if self.model is None else self.model
        opened = open_model(name or DEFAULT_MODEL, self.load_format)
        return opened.checkpoint, opened.tokenizer
