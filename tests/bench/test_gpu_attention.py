"""Attention instructions alone: decode beside the memory's bandwidth, prefill beside torch.

One layer. Decode reads far more than the L2 holds, so nothing sweeps that; its bytes are the keys
and values of the contexts, its time includes merging what was split.
"""

from __future__ import annotations

import numpy as np
import pytest
from bench.device_times import keep_times
from bench.gpu_models import (
    HEAD_DIM,
    Sizes,
    decode,
    limits_for,
    prompts,
    ragged_lengths,
    random_model,
)
from bench.gpu_peers import causal_attention_ms, hbm_rate
from pytest_benchmark.fixture import BenchmarkFixture
from unit.model.drive import pages_of

from terrazzo._core import CudaModel

pytestmark = [pytest.mark.t4_bench, pytest.mark.t2_gpu]

REPEATS = 5
SEQUENCES = (64, 256, 1024)
CONTEXTS = (512, 2048, 8192)
PREFILLS = ((8, 1024), (1, 8192))
# Hidden and intermediate sizes do not matter here; small ones leave memory to the pool.
MODELS = (Sizes("32:8", 256, 256, 32, 8), Sizes("64:8", 256, 256, 64, 8))
LONGEST = 2 * max(CONTEXTS)
POOL_PAGES = max(SEQUENCES) * pages_of(max(CONTEXTS)) + max(SEQUENCES)  # 34 GB
DECODE = ["attend_decode", "attend_merge"]


@pytest.fixture(scope="module", params=MODELS, ids=lambda sizes: sizes.name)
def model(request: pytest.FixtureRequest) -> tuple[Sizes, CudaModel]:
    sizes: Sizes = request.param
    hbm_rate()  # before the pool takes the memory that this needs
    limits = limits_for(
        sizes,
        max_rows=max(batch * length for batch, length in PREFILLS),
        max_sequences=max(SEQUENCES),
        max_position=LONGEST,
        num_pages=POOL_PAGES,
    )
    return sizes, random_model(sizes, limits)


@pytest.mark.parametrize("context", CONTEXTS)
@pytest.mark.parametrize("sequences", SEQUENCES)
def test_decode(
    benchmark: BenchmarkFixture, model: tuple[Sizes, CudaModel], sequences: int, context: int
) -> None:
    """Even lengths, then ragged ones with the same sum."""
    sizes, core = model
    lengths = {
        "even": np.full(sequences, context, np.int64),
        "ragged": ragged_lengths(sequences, context),
    }
    times: dict[str, list[float]] = {}

    def run() -> None:
        for name, contexts in lengths.items():
            arrays = decode(contexts, sizes.vocab)
            times[f"{name}_ms"] = core.time_step(
                arrays, only=DECODE, repeats=REPEATS, sweep_cache=False
            )

    benchmark.pedantic(run, rounds=1)
    keep_times(benchmark, {name: times[f"{name}_ms"] for name in lengths})
    benchmark.extra_info.update(
        table="decode attention",
        heads=sizes.name,
        sequences=sequences,
        context=context,
        bytes=sequences * context * sizes.kv_token_bytes,
        hbm=hbm_rate(),
        **times,
    )


@pytest.mark.parametrize(("batch", "length"), PREFILLS)
def test_prefill(
    benchmark: BenchmarkFixture, model: tuple[Sizes, CudaModel], batch: int, length: int
) -> None:
    sizes, core = model
    arrays = prompts(batch, length, sizes.vocab)
    ours: list[float] = []
    theirs: dict[str, list[float]] = {}

    def run() -> None:
        ours.extend(core.time_step(arrays, only=["attend_prefill"], repeats=REPEATS))
        theirs.update(
            causal_attention_ms(batch, length, sizes.num_heads, sizes.num_kv_heads, HEAD_DIM)
        )

    benchmark.pedantic(run, rounds=1)
    keep_times(benchmark, {"attend_prefill": ours})
    benchmark.extra_info.update(
        table="prefill attention",
        heads=sizes.name,
        batch=batch,
        length=length,
        flops=2 * HEAD_DIM * sizes.num_heads * batch * length * (length + 1),
        ours_ms=ours,
        torch_ms=theirs,
    )
