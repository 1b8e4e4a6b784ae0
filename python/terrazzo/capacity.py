"""How large a machine can be: the limits of its steps, and the KV pages that fit into memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .step import PAGE_TOKENS

if TYPE_CHECKING:
    from ._core import ModelShape, StepLimits
    from .models.config import ModelConfig

MAX_PAGES = 2**31 - 1  # ids travel as int32
# Where a whole O on each of several GPUs leaves less than this part of the KV pages that a sharded
# one would, `auto` shards it. A judgement; not measured.
LEAST_PAGES_KEPT = 0.75
GIB = 2**30


def kv_page_bytes(config: ModelConfig, gpus: int = 1) -> int:
    """Bytes of one page on each of `gpus` GPUs: keys and values in bfloat16 of all layers and of
    the GPU's KV heads."""
    heads = config.num_kv_heads // gpus
    return 2 * 2 * PAGE_TOKENS * config.head_dim * heads * config.num_layers


def tensor_parallel_degrees(num_kv_heads: int, limit: int = 8) -> list[int]:
    """Numbers of GPUs that a model with so many KV heads can run on."""
    return [n for n in range(1, limit + 1) if num_kv_heads % n == 0]


def model_shape(
    config: ModelConfig, gpus: int, split_tokens: int, *, o_sharded: bool = False
) -> ModelShape:
    """The model's sizes as the compiled core takes them."""
    from ._core import ModelShape

    return ModelShape(
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
        o_sharded=o_sharded,
    )


@dataclass(frozen=True, slots=True)
class Capacity:
    """What a machine is sized for, its KV pages aside."""

    config: ModelConfig
    max_batch_tokens: int
    max_sequences: int
    max_model_len: int
    max_logit_rows: int
    split_tokens: int

    def limits(self, num_pages: int, shape: ModelShape) -> StepLimits:
        """Of a model of this shape with so many KV pages."""
        from ._core import StepLimits

        # A row that is split has a part in each span of `split_tokens`, and there cannot be more
        # parts than the longest contexts have, nor (but for shared pages) than the pool has and
        # one for each sequence. Rows for which no room is left are not split.
        splits_each = -(-self.max_model_len // self.split_tokens)
        in_pool = num_pages * PAGE_TOKENS // self.split_tokens + self.max_sequences
        parts = min(self.max_sequences * splits_each, in_pool)
        # Of all KV heads lie where O is multiplied: with the owner of the rows, who may own all of
        # a step; with O sharded, each GPU has those of its own heads.
        heads = shape.local_kv_heads if shape.o_sharded else self.config.num_kv_heads
        return StepLimits(
            max_rows=self.max_batch_tokens,
            max_sequences=self.max_sequences,
            max_position=self.max_model_len,
            num_pages=num_pages,
            max_logit_rows=self.max_logit_rows,
            max_partials=parts * heads,
        )

    def device_bytes(self, shape: ModelShape, num_pages: int) -> int:
        """Memory that the model and its steps take on a GPU."""
        from ._core import heap_bytes, weight_bytes

        limits = self.limits(num_pages, shape)
        return weight_bytes(shape, self.max_model_len) + heap_bytes(shape, limits)

    def pages_that_fit(self, shape: ModelShape, budget_bytes: int) -> int:
        """Most KV pages beside the model in `budget_bytes` of a GPU; ValueError, which says what
        would fit, if not even one does."""
        page_bytes = kv_page_bytes(self.config, shape.world)
        least_bytes = self.device_bytes(shape, 1)
        if least_bytes > budget_bytes:
            raise ValueError(
                f"[capacity] the model takes {least_bytes / GIB:.1f} GiB of {_each_gpu(shape)} "
                "memory with "
                f"one KV page, but may use {max(budget_bytes, 0) / GIB:.1f} GiB; free memory on "
                "the GPU, raise gpu_memory_utilization, or lower max_batch_tokens and "
                f"max_sequences{self._what_fits(shape, budget_bytes)}"
            )
        num_pages = min(1 + (budget_bytes - least_bytes) // page_bytes, MAX_PAGES)
        # More pages also need a little more room for counters and parts of attention.
        while (excess := self.device_bytes(shape, num_pages) - budget_bytes) > 0:
            num_pages -= max(1, excess // page_bytes)
        return num_pages

    def check_pages(self, shape: ModelShape, num_pages: int, budget_bytes: int) -> None:
        """ValueError, which says how many would fit, if `num_pages` pages do not."""
        needed = self.device_bytes(shape, num_pages)
        if needed > budget_bytes:
            most = self.pages_that_fit(shape, budget_bytes)
            raise ValueError(
                f"[capacity] the model and {num_pages} KV pages take {needed / GIB:.1f} GiB of "
                f"{_each_gpu(shape)} memory, {budget_bytes / GIB:.1f} GiB are free: at most {most} "
                "pages fit"
            )

    def shards_o(self, gpus: int, budget_bytes: int, num_pages: int | None) -> bool:
        """What `auto` means for O's weight on several GPUs that may use `budget_bytes` each, with
        so many KV pages or (None) as many as fit: whole on each, unless `num_pages` pages do not
        fit beside it; or those that do cannot hold the longest sequence, or are less than
        LEAST_PAGES_KEPT of what a sharded O would leave.
        """
        whole = model_shape(self.config, gpus, self.split_tokens)
        if self.device_bytes(whole, num_pages or 1) > budget_bytes:
            return True
        if num_pages is not None:
            return False
        kept = self.pages_that_fit(whole, budget_bytes)
        most = self.pages_that_fit(self._sharded(gpus), budget_bytes)
        return kept * PAGE_TOKENS < self.max_model_len or kept < LEAST_PAGES_KEPT * most

    def _sharded(self, gpus: int) -> ModelShape:
        return model_shape(self.config, gpus, self.split_tokens, o_sharded=True)

    def _what_fits(self, shape: ModelShape, budget_bytes: int) -> str:
        """How the model would fit, with O sharded or on how many GPUs at least, as the end of a
        sentence."""
        replicated = shape.world > 1 and not shape.o_sharded
        if replicated and self.device_bytes(self._sharded(shape.world), 1) <= budget_bytes:
            return "; with o_proj='sharded' it would fit"
        for gpus in tensor_parallel_degrees(self.config.num_kv_heads):
            if gpus > shape.world and self.device_bytes(self._sharded(gpus), 1) <= budget_bytes:
                return f"; on gpus={gpus} with as much memory each it would fit"
        return ""


def _each_gpu(shape: ModelShape) -> str:
    return "the GPU's" if shape.world == 1 else "each GPU's"


def memory_budget(free_bytes: int, total_bytes: int, utilization: float) -> int:
    """What one model may take: its share of the GPU's memory, less what others hold already."""
    if not 0.0 < utilization <= 1.0:
        raise ValueError(
            f"[capacity] gpu_memory_utilization: expected a number in (0, 1], got {utilization}"
        )
    return free_bytes - int(total_bytes * (1.0 - utilization))
