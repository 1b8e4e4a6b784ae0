"""GEMM instructions through the whole interpreter, beside cuBLAS and the memory's bandwidth.

One kind of a step's instructions at a time, without waits, epilogues and stores included. Random
bf16 operands. Many tokens: of some layers in one launch, each with its own weights, beside a graph
of as many products with theirs; and of one layer alone; the L2 is swept before each launch of
either. Few tokens: the weights are many times as large as the L2.
"""

from __future__ import annotations

from functools import partial

import pytest
from bench.device_times import keep_times
from bench.gpu_models import (
    BF16_BYTES,
    LLAMA_8B,
    Sizes,
    decode,
    is_large,
    limits_for,
    prompts,
    random_model,
    tiles_of,
)
from bench.gpu_peers import cublas_graph_ms, cublas_ms, hbm_rate
from pytest_benchmark.fixture import BenchmarkFixture

from terrazzo._core import CudaModel

pytestmark = [pytest.mark.t4_bench, pytest.mark.t2_gpu]

ROWS = (512, 1024, 2048, 4096, 8192)
PROMPT = 512
REPEATS = 7
LAYERS = 4  # in one launch
# The shares of a 70B model run as plain models of their sizes; its O projection is whole on every
# GPU, so it has a model of its own.
MODELS = (
    Sizes("8B", 4096, 14336, 32, 8, num_layers=LAYERS),
    Sizes("70B/tp2", 8192, 14336, 32, 4, num_layers=LAYERS),
    Sizes("70B/tp8", 8192, 3584, 8, 1, num_layers=LAYERS),
    Sizes("70B o", 8192, 64, 64, 8, num_layers=LAYERS),
)
KINDS = {
    "8B": ("qkv_rope_append", "o_proj_residual", "gate_up_silu", "down_residual"),
    "70B/tp2": ("qkv_rope_append", "gate_up_silu", "down_residual"),
    "70B/tp8": ("qkv_rope_append", "gate_up_silu", "down_residual"),
    "70B o": ("o_proj_residual",),
}
# Enough layers that the weights of each kind are far larger than the L2.
FEW_TOKENS_MODEL = Sizes("8B", 4096, 14336, 32, 8, num_layers=8, vocab=LLAMA_8B.vocab)
FEW_TOKENS = (1, 8, 16, 64)


@pytest.fixture(scope="module", params=MODELS, ids=lambda sizes: sizes.name)
def model(request: pytest.FixtureRequest) -> tuple[Sizes, CudaModel]:
    sizes: Sizes = request.param
    limits = limits_for(
        sizes,
        max_rows=max(ROWS),
        max_sequences=max(ROWS) // PROMPT,
        max_position=PROMPT,
        num_pages=max(ROWS) // 64,
    )
    return sizes, random_model(sizes, limits)


@pytest.mark.parametrize("rows", ROWS)
def test_products(benchmark: BenchmarkFixture, model: tuple[Sizes, CudaModel], rows: int) -> None:
    sizes, core = model
    arrays = prompts(rows // PROMPT, PROMPT, sizes.vocab)
    figures: list[dict[str, object]] = []
    ours: dict[str, list[float]] = {}

    def run() -> None:
        for kind in KINDS[sizes.name]:
            n, k = sizes.gemms[kind]
            waves = tiles_of(core.shape, core.limits, arrays, kind, core.num_sms)
            time = partial(core.time_step, arrays, only=[kind], repeats=REPEATS)
            ours[kind] = [ms / LAYERS for ms in time()]
            figures.append(
                {
                    "kind": kind,
                    "n": n,
                    "k": k,
                    "tiles": waves.tiles // LAYERS,
                    "sms": waves.sms,
                    "large": is_large(rows, n),
                    "ours_ms": ours[kind],
                    "cublas_ms": cublas_graph_ms(rows, n, k, LAYERS, REPEATS),
                    "ours_alone_ms": time(layers=1),
                    "cublas_alone_ms": cublas_ms(rows, n, k, REPEATS),
                }
            )

    benchmark.pedantic(run, rounds=1)
    keep_times(benchmark, ours)
    benchmark.extra_info.update(table="gemm", model=sizes.name, rows=rows, figures=figures)


@pytest.fixture(scope="module")
def deep_model() -> CudaModel:
    sequences = max(FEW_TOKENS)
    limits = limits_for(
        FEW_TOKENS_MODEL,
        max_rows=sequences,
        max_sequences=sequences,
        max_position=64,
        num_pages=sequences,
    )
    return random_model(FEW_TOKENS_MODEL, limits)


@pytest.mark.parametrize("rows", FEW_TOKENS)
def test_few_tokens(benchmark: BenchmarkFixture, deep_model: CudaModel, rows: int) -> None:
    """Weights stream past the tokens: bytes a second, beside the fastest read of memory."""
    sizes = FEW_TOKENS_MODEL
    arrays = decode([1] * rows, sizes.vocab)
    layers = {kind: sizes.num_layers * n * k for kind, (n, k) in sizes.gemms.items()}
    weights = {**layers, "lm_head": sizes.vocab * sizes.hidden}
    time = partial(deep_model.time_step, arrays, repeats=REPEATS, sweep_cache=False)
    figures: list[dict[str, object]] = []
    ours: dict[str, list[float]] = {}

    def run() -> None:
        for kind, count in weights.items():
            ours[kind] = time(only=[kind])
            figures.append({"kind": kind, "bytes": count * BF16_BYTES, "ours_ms": ours[kind]})

    benchmark.pedantic(run, rounds=1)
    keep_times(benchmark, ours)
    benchmark.extra_info.update(table="few tokens", rows=rows, hbm=hbm_rate(), figures=figures)


def test_empty_instructions(benchmark: BenchmarkFixture, deep_model: CudaModel) -> None:
    """A program of instructions without rows and panels: claim, fetch, all roles, no data.

    The longer program's time less the shorter one's: launch and end are in both.
    """
    sms = deep_model.num_sms
    few, many = 64 * sms, 512 * sms
    times: dict[int, list[float]] = {}

    def run() -> None:
        for count in (few, many):
            times[count] = deep_model.time_empty(count, repeats=REPEATS)

    benchmark.pedantic(run, rounds=1)
    keep_times(benchmark, {"many": times[many]})
    benchmark.extra_info.update(
        table="empty", sms=sms, few=few, many=many, few_ms=times[few], many_ms=times[many]
    )
