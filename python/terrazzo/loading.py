"""Carries a checkpoint's weights into a machine, several layers at a time."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

import numpy as np

from .packing import (
    Machine,
    Shard,
    pack_layer,
    pack_lm_head,
    rope_table,
    set_tables,
    weight_source,
)

if TYPE_CHECKING:
    from .models.checkpoint import Checkpoint

# Each thread holds a few tensors of one layer at most: more threads than this read no faster.
MAX_THREADS = 8

Progress = Callable[[int, int], None]  # parts done, parts there are


def load_weights(
    machine: Machine,
    checkpoint: Checkpoint,
    *,
    gpus: int,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Loads all weights and tables of a model on `gpus` GPUs.

    Each tensor is read once, whatever the number of GPUs: what of it belongs to each goes straight
    into place. Reading, folding and copying release the GIL, so threads share the work by layers.
    The first error ends it and is raised.
    """
    config = checkpoint.config
    shape = machine.shape
    total = config.num_layers + 1
    shards = [
        Shard(config, gpu, gpus, shape.act_panels, shape.vocab_panels, shape.o_sharded)
        for gpu in range(gpus)
    ]
    embedding = weight_source(machine, checkpoint, "model.embed_tokens.weight")
    lm_head = embedding
    if not config.tie_word_embeddings:
        lm_head = weight_source(machine, checkpoint, "lm_head.weight")
    if num_threads is None:
        num_threads = min(MAX_THREADS, os.cpu_count() or 1)
    with ThreadPoolExecutor(num_threads, thread_name_prefix="terrazzo-load") as pool:
        # The largest part first, so that it does not start when all others are done.
        others: list[Future[None]] = [
            pool.submit(pack_lm_head, machine, lm_head, shard) for shard in shards
        ]
        layers: set[Future[None]] = {
            pool.submit(pack_layer, machine, checkpoint, shards, layer)
            for layer in range(config.num_layers)
        }
        try:
            for done, part in enumerate(as_completed(layers), start=1):
                part.result()
                if progress is not None:
                    progress(done, total)
            for part in others:
                part.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    final_norm = np.ascontiguousarray(checkpoint.tensor("model.norm.weight"))
    rope = rope_table(config.inv_freq(), machine.limits.max_position)
    set_tables(machine, embedding, final_norm, np.ascontiguousarray(rope))
    if progress is not None:
        progress(total, total)
