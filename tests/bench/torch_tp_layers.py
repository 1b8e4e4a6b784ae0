"""One GPU's share of a Llama step in torch: sliced matrices, sums over the GPUs after O and down.

Queries stand in for what attention makes of them: there is no KV cache and no sampling, and whoever
compares adds what they cost. Residual and norms are on all GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from bench.gpu_peers import DTYPE
from bench.model_sizes import HEAD_DIM, Sizes
from bench.torch_step import DISTINCT_LAYERS, WEIGHT_SCALE, Parts

SPLIT_BY_COLUMNS = ("o_proj_residual", "down_residual")  # their products are summed over the GPUs


def share_of(sizes: Sizes, gpus: int) -> Sizes:
    """The sizes of one GPU's matrices. ValueError where something does not divide."""
    parts = ("intermediate", "num_heads", "num_kv_heads", "vocab")
    for name in parts:
        if getattr(sizes, name) % gpus:
            raise ValueError(f"{gpus} GPUs do not divide {name} of {getattr(sizes, name)}")
    return replace(sizes, **{name: getattr(sizes, name) // gpus for name in parts})


def slice_of(kind: str, whole: torch.Tensor, sizes: Sizes, gpus: int, rank: int) -> torch.Tensor:
    """The rank's part of a matrix [N, K] of the whole model; it shares no memory with it.

    Query, key and value heads are split each, gate and up as well.
    """
    if kind in SPLIT_BY_COLUMNS:
        return whole.chunk(gpus, dim=1)[rank].clone(memory_format=torch.contiguous_format)
    kv = sizes.num_kv_heads * HEAD_DIM
    sections = {
        "qkv_rope_append": [sizes.num_heads * HEAD_DIM, kv, kv],
        "gate_up_silu": [sizes.intermediate, sizes.intermediate],
        "head": [sizes.vocab],
    }[kind]
    return torch.cat([part.chunk(gpus)[rank] for part in whole.split(sections)])


class Source:
    """Random matrices, the same on all ranks: a seeded generator of the device."""

    def __init__(self, device: torch.device, dtype: torch.dtype, seed: int) -> None:
        self.device, self.dtype = device, dtype
        self._generator = torch.Generator(device).manual_seed(seed)

    def draw(self, *shape: int, scale: float = 1.0) -> torch.Tensor:
        """Even between -scale and scale."""
        values = torch.rand(shape, dtype=self.dtype, device=self.device, generator=self._generator)
        return values.mul_(2 * scale).sub_(scale)


class ShareWeights:
    """The rank's slices of random weights of a few layers, which take turns, and of the LM head."""

    def __init__(
        self,
        sizes: Sizes,
        gpus: int,
        rank: int,
        device: torch.device,
        dtype: torch.dtype = DTYPE,
    ) -> None:
        self.share = share_of(sizes, gpus)
        self.rank = rank
        self.device, self.dtype = device, dtype
        source = Source(device, dtype, seed=1)

        def drawn(kind: str, n: int, k: int) -> torch.Tensor:
            whole = source.draw(n, k, scale=WEIGHT_SCALE)
            return slice_of(kind, whole, sizes, gpus, rank)

        self.layers = [
            {kind: drawn(kind, n, k) for kind, (n, k) in sizes.gemms.items()}
            for _ in range(DISTINCT_LAYERS)
        ]
        self.head = drawn("head", sizes.vocab, sizes.hidden)
        self.norm = torch.ones(sizes.hidden, dtype=dtype, device=device)


class Reducer(Protocol):
    """How partial products become sums over the GPUs."""

    name: str

    def operand(self, rows: int, hidden: int) -> torch.Tensor:
        """Zeros [rows, hidden] that `reduce` takes."""

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """x [rows, K] times weight [hidden, K] transposed: what `reduce` takes."""

    def reduce(self, partial: torch.Tensor) -> torch.Tensor:
        """[rows, hidden], summed over the GPUs; `partial` may be overwritten."""

    def gather(self, picks: torch.Tensor) -> torch.Tensor:
        """[2, n] of each GPU -> [GPUs, 2, n]"""


class Alone:
    """Leaves the others out: for one GPU, or to see what a share alone takes."""

    name = "alone"

    def __init__(self, device: torch.device, dtype: torch.dtype = DTYPE) -> None:
        self.device, self.dtype = device, dtype

    def operand(self, rows: int, hidden: int) -> torch.Tensor:
        return torch.zeros(rows, hidden, dtype=self.dtype, device=self.device)

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x @ weight.t()

    def reduce(self, partial: torch.Tensor) -> torch.Tensor:
        return partial

    def gather(self, picks: torch.Tensor) -> torch.Tensor:
        return picks[None]


class Group(Alone):
    """All-reduce of torch.distributed's group: NCCL, or gloo on a CPU."""

    name = "nccl"

    def reduce(self, partial: torch.Tensor) -> torch.Tensor:
        dist.all_reduce(partial)
        return partial

    def gather(self, picks: torch.Tensor) -> torch.Tensor:
        gpus = dist.get_world_size()
        found = picks.new_empty(gpus * len(picks), *picks.shape[1:])
        dist.all_gather_into_tensor(found, picks)
        return found.view(gpus, *picks.shape)


class Gathered(Group):
    """Sums in float32, in the order of the ranks: slow, for comparison."""

    name = "gathered"

    def reduce(self, partial: torch.Tensor) -> torch.Tensor:
        return self.gather(partial).sum(0, dtype=torch.float32).to(partial.dtype)


class SymmetricBuffer:
    """[rows, hidden] in memory that all ranks map; made by all ranks together."""

    def __init__(self, rows: int, hidden: int, device: torch.device) -> None:
        import torch.distributed._symmetric_memory as symmetric_memory

        self.group_name = dist.distributed_c10d._get_default_group().group_name
        self.data = symmetric_memory.empty((rows, hidden), dtype=DTYPE, device=device)
        symmetric_memory.rendezvous(self.data, self.group_name)


class Symmetric(Group):
    """torch's kernels over peers' memory, without multicast; products go straight into it.

    `name` is one_shot or two_shot.
    """

    def __init__(self, name: str, buffer: SymmetricBuffer, rows: int) -> None:
        super().__init__(buffer.data.device)
        self.name = name
        self._group_name = buffer.group_name
        self._buffer = buffer.data[:rows]
        operators = {
            "one_shot": torch.ops.symm_mem.one_shot_all_reduce,
            "two_shot": torch.ops.symm_mem.two_shot_all_reduce_,
        }
        self._operator: Callable[..., torch.Tensor] = operators[name]

    def operand(self, rows: int, hidden: int) -> torch.Tensor:
        del rows, hidden  # those of the buffer
        return self._buffer.zero_()

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.mm(x, weight.t(), out=self._buffer)

    def reduce(self, partial: torch.Tensor) -> torch.Tensor:
        return self._operator(partial, "sum", self._group_name)


class StepOutput(NamedTuple):
    """`hidden` [rows, hidden] is after the last norm.

    `token_ids` [logit rows] are the likeliest of the vocabulary; with `Alone` of the share's part.
    """

    hidden: torch.Tensor
    token_ids: torch.Tensor


class ShareStep:
    """`rows` tokens through the rank's share of all layers, `logit_rows` of them to the head."""

    def __init__(self, weights: ShareWeights, rows: int, logit_rows: int) -> None:
        self.weights = weights
        self.rows, self.logit_rows = rows, logit_rows
        source = Source(weights.device, weights.dtype, seed=2)
        self.x = source.draw(rows, weights.share.hidden)
        angles = source.draw(rows, 1, HEAD_DIM // 2).float()
        self.cos, self.sin = angles.cos(), angles.sin()
        self.wanted = torch.linspace(0, rows - 1, logit_rows, device=weights.device).long()

    def run(self, parts: Parts, reducer: Reducer, num_layers: int | None = None) -> StepOutput:
        weights, share = self.weights, self.weights.share

        def summed(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            return reducer.reduce(reducer.product(x, weight))

        x, normed = self.x, parts.norm(self.x, weights.norm)
        for index in range(share.num_layers if num_layers is None else num_layers):
            layer = weights.layers[index % DISTINCT_LAYERS]
            qkv = (normed @ layer["qkv_rope_append"].t()).view(self.rows, -1, HEAD_DIM)
            rotated = parts.rotate(qkv[:, : -share.num_kv_heads], self.cos, self.sin)
            attention = rotated[:, : share.num_heads].flatten(1)
            projected = summed(attention, layer["o_proj_residual"])
            x, normed = parts.add_norm(x, projected, weights.norm)
            activation = parts.gate(normed @ layer["gate_up_silu"].t())
            x, normed = parts.add_norm(x, summed(activation, layer["down_residual"]), weights.norm)
        logits = normed[self.wanted] @ weights.head.t()
        best, ids = logits.max(-1)
        # Ids below 2^24 are exact as floats: one small message holds both.
        picks = torch.stack([best.float(), (ids + weights.rank * share.vocab).float()])
        found = reducer.gather(picks)
        winner = found[:, 0].argmax(0, keepdim=True)
        return StepOutput(normed, found[:, 1].gather(0, winner)[0].long())

    @property
    def flops(self) -> int:
        """Of the rank's products."""
        share = self.weights.share
        per_row = share.num_layers * share.layer_weights
        return 2 * (self.rows * per_row + self.logit_rows * share.vocab * share.hidden)
