"""Whole steps of an 8B model with random weights, beside torch's products and the bytes they move.

The peer of a decode step is a CUDA graph of the same products by cuBLAS with compiled element-wise
parts between them, plus the time of the KV bytes at 0.95 of this run's memory bandwidth.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from bench.device_times import keep_times
from bench.gpu_models import (
    BF16_BYTES,
    LLAMA_8B,
    decode,
    limits_for,
    prompts,
    random_model,
)
from bench.gpu_peers import hbm_rate, times_ms
from bench.torch_step import Compiler, Parts, TorchStep, Weights, graph_of
from pytest_benchmark.fixture import BenchmarkFixture
from unit.model.drive import pages_of

from terrazzo._core import CudaModel, StepArrays

pytestmark = [pytest.mark.t4_bench, pytest.mark.t2_gpu]

REPEATS = 5
PREFILL = (8, 1024)
DECODES = ((1, 512), (64, 512), (256, 512), (512, 512))
LARGE_DECODES = ((1024, 448), (2048, 192))  # a pool of 60 GB: in a model of their own
KV_SHARE = 0.95  # of the memory's bandwidth, as the best attention kernels reach
HOST_STEPS = 20
# vLLM 0.26.0 on another H100 80GB HBM3, 2026-11-22, sampling and scheduling included.
VLLM_MS = {"prefill 8 x 1024": 194.0, "1 at 512": 6.54, "64 at 512": 8.84}
VLLM_MS |= {"256 at 512": 15.3, "512 at 512": 26.8}


def model_for(decodes: tuple[tuple[int, int], ...], max_rows: int) -> CudaModel:
    limits = limits_for(
        LLAMA_8B,
        max_rows=max_rows,
        max_sequences=max(n for n, _ in decodes),
        max_position=PREFILL[1],
        num_pages=max(n * pages_of(context) for n, context in decodes),
    )
    return random_model(LLAMA_8B, limits)


@pytest.fixture(scope="module")
def bandwidth() -> float:
    """Bytes a second, measured before a model takes the memory."""
    return hbm_rate()


@pytest.fixture(scope="module")
def weights() -> Weights:
    return Weights(LLAMA_8B)


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    return Compiler()


class Holder:
    """At most one model at a time: two do not fit."""

    def __init__(self) -> None:
        self._name = ""
        self._model: CudaModel | None = None

    def get(self, name: str, make: Callable[[], CudaModel]) -> CudaModel:
        if self._model is None or self._name != name:
            self.clear()
            self._name, self._model = name, make()
        return self._model

    def clear(self) -> None:
        self._model = None
        gc.collect()
        torch.cuda.empty_cache()


@pytest.fixture(scope="module")
def models(bandwidth: float) -> Iterator[Holder]:
    holder = Holder()
    yield holder
    holder.clear()


def small_pool(models: Holder) -> CudaModel:
    return models.get("small", lambda: model_for(DECODES, max_rows=PREFILL[0] * PREFILL[1]))


def large_pool(models: Holder) -> CudaModel:
    return models.get("large", lambda: model_for(LARGE_DECODES, max_rows=2048))


def check_finite(core: CudaModel, arrays: StepArrays) -> None:
    _, logprobs, _ = core.collect(core.submit(arrays))
    assert np.isfinite(logprobs).all()


def alone_ms(core: CudaModel, arrays: StepArrays) -> dict[str, float]:
    """Each kind of the step's instructions in a launch of its own: where the time goes."""
    from terrazzo._core import instruction_counts

    counts = instruction_counts(core.shape, core.limits, arrays, core.num_sms)
    kinds = [kind for kind, count in counts.items() if count > 0 and kind != "step_end"]
    return {
        kind: statistics.median(core.time_step(arrays, only=[kind], repeats=3)) for kind in kinds
    }


def test_prefill(
    benchmark: BenchmarkFixture, models: Holder, weights: Weights, bandwidth: float
) -> None:
    """The peer is cuBLAS on the step's products alone."""
    core = small_pool(models)
    batch, length = PREFILL
    rows = batch * length
    arrays = prompts(batch, length, LLAMA_8B.vocab)
    ours: list[float] = []
    theirs: list[float] = []
    alone: dict[str, float] = {}

    def run() -> None:
        check_finite(core, arrays)
        ours.extend(core.time_step(arrays, repeats=3))
        step = TorchStep(weights, rows, batch)
        theirs.extend(times_ms(graph_of(step.run_products).replay, repeats=3, warm_up=1))
        alone.update(alone_ms(core, arrays))

    benchmark.pedantic(run, rounds=1)
    keep_times(benchmark, {"step": ours})
    torch.cuda.empty_cache()
    products = LLAMA_8B.num_layers * LLAMA_8B.layer_weights * rows
    benchmark.extra_info.update(
        table="prefill step",
        step=f"prefill {batch} x {length}",
        rows=rows,
        flops=2 * (products + LLAMA_8B.vocab * LLAMA_8B.hidden * batch),
        ours_ms=ours,
        products_ms=theirs,
        vllm_ms=VLLM_MS.get(f"prefill {batch} x {length}"),
        alone_ms=alone,
    )


def compare_decode(
    benchmark: BenchmarkFixture,
    core: CudaModel,
    weights: Weights,
    compiler: Compiler,
    bandwidth: float,
    sequences: int,
    context: int,
) -> None:
    arrays = decode([context] * sequences, LLAMA_8B.vocab)
    ours: list[float] = []
    theirs: list[float] = []
    alone: dict[str, float] = {}
    used: list[Parts] = []

    def run() -> None:
        check_finite(core, arrays)
        ours.extend(core.time_step(arrays, repeats=REPEATS))
        step = TorchStep(weights, sequences, sequences)
        parts = compiler.parts(step.run)
        used.append(parts)
        graph = graph_of(lambda: step.run(parts))
        theirs.extend(times_ms(graph.replay, repeats=REPEATS, warm_up=1))
        alone.update(alone_ms(core, arrays))

    benchmark.pedantic(run, rounds=1)
    keep_times(benchmark, {"step": ours})
    torch.cuda.empty_cache()
    head = LLAMA_8B.vocab * LLAMA_8B.hidden
    benchmark.extra_info.update(
        table="decode step",
        step=f"{sequences} at {context}",
        sequences=sequences,
        context=context,
        hbm=bandwidth,
        weight_bytes=BF16_BYTES * (LLAMA_8B.num_layers * LLAMA_8B.layer_weights + head),
        kv_bytes=sequences * context * LLAMA_8B.kv_token_bytes,
        kv_share=KV_SHARE,
        ours_ms=ours,
        graph_ms=theirs,
        compiled=used[0].compiled,
        not_compiled_because=used[0].reason,
        vllm_ms=VLLM_MS.get(f"{sequences} at {context}"),
        alone_ms=alone,
    )


@pytest.mark.parametrize(("sequences", "context"), DECODES)
def test_decode(
    benchmark: BenchmarkFixture,
    models: Holder,
    weights: Weights,
    compiler: Compiler,
    bandwidth: float,
    sequences: int,
    context: int,
) -> None:
    core = small_pool(models)
    compare_decode(benchmark, core, weights, compiler, bandwidth, sequences, context)


@pytest.mark.parametrize(("sequences", "context"), LARGE_DECODES)
def test_decode_of_many(
    benchmark: BenchmarkFixture,
    models: Holder,
    weights: Weights,
    compiler: Compiler,
    bandwidth: float,
    sequences: int,
    context: int,
) -> None:
    core = large_pool(models)
    compare_decode(benchmark, core, weights, compiler, bandwidth, sequences, context)


def test_host_time(benchmark: BenchmarkFixture, models: Holder) -> None:
    """`submit` of 2048 sequences while the step before runs: lowering, copying, launching."""
    core = large_pool(models)
    sequences, context = LARGE_DECODES[-1]
    arrays = decode([context] * sequences, LLAMA_8B.vocab)
    submit_ms: list[float] = []

    def run() -> None:
        tickets = deque([core.submit(arrays)])
        for _ in range(HOST_STEPS):
            begin_s = time.perf_counter()
            tickets.append(core.submit(arrays))
            submit_ms.append(1e3 * (time.perf_counter() - begin_s))
            core.collect(tickets.popleft())
        core.collect(tickets.popleft())

    benchmark.pedantic(run, rounds=1)
    keep_times(benchmark, {"submit": submit_ms[3:]})
    benchmark.extra_info.update(
        table="host time", step=f"{sequences} at {context}", submit_ms=submit_ms[3:]
    )
