"""What the GPU's libraries do in the same run: products, attention, memory's bandwidth."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import cache
from itertools import cycle

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

SWEEP_BYTES = 128 << 20  # as CudaModel.time_step: more than the L2 holds
HBM_BYTES = 4 << 30
DTYPE = torch.bfloat16


def times_ms(
    run: Callable[[], object], *, repeats: int = 5, sweep_cache: bool = True, warm_up: int = 2
) -> list[float]:
    """Milliseconds on the device of each of `repeats` runs, queued at once."""
    swept = torch.empty(SWEEP_BYTES if sweep_cache else 0, dtype=torch.uint8, device="cuda")
    for _ in range(warm_up):
        run()
    pairs = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if sweep_cache:
            swept.zero_()
        begin.record()
        run()
        end.record()
        pairs.append((begin, end))
    torch.cuda.synchronize()
    return [begin.elapsed_time(end) for begin, end in pairs]


def hbm_rates() -> dict[str, float]:
    """Bytes a second of kernels over 4 GiB, by name: reductions, and a copy (read and written)."""
    data = torch.ones(HBM_BYTES // 4, dtype=torch.float32, device="cuda")
    half = data.numel() // 2
    runs: dict[str, Callable[[], object]] = {
        "sum": data.sum,
        "max": data.amax,
        "copy": lambda: data[:half].copy_(data[half:]),
    }
    return {
        name: HBM_BYTES / (statistics.median(times_ms(run, sweep_cache=False)) * 1e-3)
        for name, run in runs.items()
    }


@cache
def hbm_rate() -> float:
    """The fastest of them, once in a process: what this run's bytes are held to."""
    rate = max(hbm_rates().values())
    torch.cuda.empty_cache()
    return rate


def random(*shape: int, scale: float = 1.0) -> torch.Tensor:
    return (torch.rand(shape, dtype=DTYPE, device="cuda") * 2 - 1) * scale


def cublas_ms(m: int, n: int, k: int, repeats: int) -> list[float]:
    """[m, k] times [n, k] transposed, over three sets of operands in turn."""
    sets = cycle([(random(m, k), random(n, k, scale=0.03)) for _ in range(3)])
    out = torch.empty(m, n, dtype=DTYPE, device="cuda")

    def run() -> None:
        x, w = next(sets)
        torch.mm(x, w.t(), out=out)

    return times_ms(run, repeats=repeats)


def cublas_graph_ms(m: int, n: int, k: int, products: int, repeats: int) -> list[float]:
    """The time of one of `products` products in a CUDA graph, each with a weight of its own."""
    x = random(m, k)
    weights = [random(n, k, scale=0.03) for _ in range(products)]
    out = torch.empty(m, n, dtype=DTYPE, device="cuda")

    def run() -> None:
        for w in weights:
            torch.mm(x, w.t(), out=out)

    run()  # cuBLAS allocates what it needs before it is captured
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return [ms / products for ms in times_ms(graph.replay, repeats=repeats)]


BACKENDS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
}


def causal_attention_ms(
    batch: int, length: int, heads: int, kv_heads: int, head_dim: int
) -> dict[str, list[float]]:
    """Times of each attention in torch that works here, by name.

    Grouped queries as they are, or with keys and values repeated before the clock starts.
    """
    query = random(batch, heads, length, head_dim)
    key, value = (random(batch, kv_heads, length, head_dim) for _ in range(2))
    repeated = [x.repeat_interleave(heads // kv_heads, dim=1) for x in (key, value)]
    attend = torch.nn.functional.scaled_dot_product_attention
    forms: dict[str, tuple[Sequence[torch.Tensor], bool]] = {
        "": ((key, value), True),
        ", repeated K and V": (repeated, False),
    }
    found: dict[str, list[float]] = {}
    for backend, which in BACKENDS.items():
        for form, ((k, v), grouped) in forms.items():
            try:
                with sdpa_kernel(which):
                    found[backend + form] = times_ms(
                        lambda k=k, v=v, grouped=grouped: attend(  # type: ignore[misc]
                            query, k, v, is_causal=True, enable_gqa=grouped
                        )
                    )
            except RuntimeError:
                continue  # this one is not in torch's build or does not take the shape
    if not found:
        raise RuntimeError("no attention of torch works here")
    return found
