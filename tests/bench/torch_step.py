"""A Llama step's products by cuBLAS and its element-wise parts, in torch, as one CUDA graph.

Attention, KV append and sampling are left out: whoever compares adds what they cost.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from bench.gpu_peers import DTYPE, random
from bench.model_sizes import HEAD_DIM, Sizes

COMPILE_BUDGET_S = 50.0  # for all sizes together; what is left after it runs as torch has it
WEIGHT_SCALE = 0.03
DISTINCT_LAYERS = 2  # their weights take turns: with 0.4 GB a layer none is found in the L2


def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """[T, hidden]"""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)
    return (wide * scale).to(x.dtype) * weight


def add_norm(
    x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The new residual, and its norm."""
    total = x + y
    return total, norm(total, weight)


def rotate(heads: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Queries and keys [T, heads, head_dim]; cos and sin [T, 1, head_dim / 2]."""
    low, high = heads.float().chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1).to(heads.dtype)


def gate(gate_up: torch.Tensor) -> torch.Tensor:
    """[T, 2 * intermediate] -> [T, intermediate]"""
    gates, ups = gate_up.chunk(2, dim=-1)
    return torch.nn.functional.silu(gates) * ups


@dataclass(slots=True)
class Parts:
    """The element-wise functions, and how they came about."""

    norm: Callable[..., torch.Tensor] = norm
    add_norm: Callable[..., tuple[torch.Tensor, torch.Tensor]] = add_norm
    rotate: Callable[..., torch.Tensor] = rotate
    gate: Callable[..., torch.Tensor] = gate
    compiled: bool = False
    reason: str = "not asked for"  # where they are not compiled


class Compiler:
    """Compiles the element-wise parts, a size at a time, until its budget is spent."""

    def __init__(self, budget_s: float = COMPILE_BUDGET_S) -> None:
        self._left_s = budget_s
        self._problem = ""

    def parts(self, warm_up: Callable[[Parts], None]) -> Parts:
        """Compiled parts that `warm_up` has run, or torch's own with the reason."""
        if self._problem:
            return Parts(reason=self._problem)
        begin_s = time.perf_counter()
        try:
            parts = Parts(*map(_compiled, (norm, add_norm, rotate, gate)), compiled=True, reason="")
            warm_up(parts)
            torch.cuda.synchronize()
        except Exception as error:
            self._problem = f"torch.compile: {type(error).__name__}: {str(error).splitlines()[0]}"
            return Parts(reason=self._problem)
        self._left_s -= time.perf_counter() - begin_s
        if self._left_s <= 0:
            self._problem = "compiling took its share of the time"
        return parts


def _compiled(function: Callable[..., object]) -> Callable[..., object]:
    import torch._dynamo
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = 64  # one form for each number of rows
    torch._inductor.config.compile_threads = 1  # a pool takes longer to start than these kernels
    return torch.compile(function, dynamic=False)


class Weights:
    """Random weights for a few layers, which take turns, and the LM head."""

    def __init__(self, sizes: Sizes) -> None:
        self.sizes = sizes
        self.layers = [
            {kind: random(n, k, scale=WEIGHT_SCALE) for kind, (n, k) in sizes.gemms.items()}
            for _ in range(DISTINCT_LAYERS)
        ]
        self.head = random(sizes.vocab, sizes.hidden, scale=WEIGHT_SCALE)
        self.norm = torch.ones(sizes.hidden, dtype=DTYPE, device="cuda")


class TorchStep:
    """`rows` tokens through all layers, `logit_rows` of them through the LM head."""

    def __init__(self, weights: Weights, rows: int, logit_rows: int) -> None:
        sizes = weights.sizes
        self.weights = weights
        self.x = random(rows, sizes.hidden)
        self.attention = random(rows, sizes.num_heads * HEAD_DIM)
        angles = torch.rand(rows, 1, HEAD_DIM // 2, device="cuda")
        self.cos, self.sin = angles.cos(), angles.sin()
        self.wanted = torch.linspace(0, rows - 1, logit_rows, device="cuda").long()
        self.num_rotated = sizes.num_heads + sizes.num_kv_heads
        self.products = [
            random(rows, sizes.hidden),
            random(rows, sizes.intermediate),
            random(logit_rows, sizes.hidden),
        ]

    def run(self, parts: Parts) -> torch.Tensor:
        """The ids of the likeliest tokens."""
        weights, rows = self.weights, len(self.x)
        x, normed = self.x, parts.norm(self.x, weights.norm)
        for index in range(weights.sizes.num_layers):
            layer = weights.layers[index % DISTINCT_LAYERS]
            qkv = (normed @ layer["qkv_rope_append"].t()).view(rows, -1, HEAD_DIM)
            parts.rotate(qkv[:, : self.num_rotated], self.cos, self.sin)
            projected = self.attention @ layer["o_proj_residual"].t()
            x, normed = parts.add_norm(x, projected, weights.norm)
            activation = parts.gate(normed @ layer["gate_up_silu"].t())
            x, normed = parts.add_norm(x, activation @ layer["down_residual"].t(), weights.norm)
        return (normed[self.wanted] @ weights.head.t()).argmax(-1)

    def run_products(self) -> None:
        """The matrix products alone."""
        normed, activation, compact = self.products
        for index in range(self.weights.sizes.num_layers):
            layer = self.weights.layers[index % DISTINCT_LAYERS]
            for kind, operand in (
                ("qkv_rope_append", normed),
                ("o_proj_residual", self.attention),
                ("gate_up_silu", normed),
                ("down_residual", activation),
            ):
                torch.mm(operand, layer[kind].t())
        torch.mm(compact, self.weights.head.t())


def graph_of(run: Callable[[], object], capture_error_mode: str = "global") -> torch.cuda.CUDAGraph:
    """The work of `run` as a graph; it ran once before."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode=capture_error_mode):
        run()
    return graph
