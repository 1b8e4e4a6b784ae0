"""A rank's measurements of tensor-parallel steps, each of them a CUDA graph."""

from __future__ import annotations

import gc
import hashlib
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from bench.gpu_peers import hbm_rate
from bench.model_sizes import Sizes
from bench.peer_copies import peer_copy_rates
from bench.torch_step import DISTINCT_LAYERS, Compiler, Parts, graph_of
from bench.torch_tp_layers import (
    Alone,
    Gathered,
    Group,
    Reducer,
    ShareStep,
    ShareWeights,
    Symmetric,
    SymmetricBuffer,
)

SYMMETRIC = ("one_shot", "two_shot")
WARM_UP = 2  # replays that do not count
REDUCES = 20  # in the graph that times the all-reduce alone
TOLERANCE = 0.02  # of two layers in bf16, by a sum in another order: a few of its roundings of 0.4%


@dataclass(frozen=True, slots=True)
class Plan:
    """What each process is told."""

    sizes: Sizes
    gpus: int
    rows: tuple[tuple[int, int], ...]  # (rows, logit rows)
    repeats: int
    compile_budget_s: float
    symmetric: bool
    device: str  # "cuda", or "cpu": gloo, no graph, the host's clock
    result: Path


def on_all(value: object) -> list[Any]:
    """The ranks' values. A collective call."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def digest(values: torch.Tensor) -> str:
    """Of the bits."""
    return hashlib.sha256(values.contiguous().view(torch.uint8).cpu().numpy()).hexdigest()


def reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


class Bench:
    """A rank's measurements; rank 0 writes them after each, so that what is done is never lost."""

    def __init__(self, plan: Plan, rank: int) -> None:
        self.plan, self.rank = plan, rank
        self.is_gpu = plan.device == "cuda"
        self.device = torch.device("cuda", rank) if self.is_gpu else torch.device("cpu")
        self.group, self.alone = Group(self.device), Alone(self.device)
        self.gathered = Gathered(self.device)
        self.broken: set[str] = set()
        self.compiler = Compiler(plan.compile_budget_s)
        self.report: dict[str, Any] = {
            "sizes": asdict(plan.sizes),
            "gpus": plan.gpus,
            "torch": torch.__version__,
            "device": torch.cuda.get_device_name() if self.is_gpu else "cpu",
            "nccl": ".".join(map(str, torch.cuda.nccl.version())) if self.is_gpu else "",
            "hbm": [],
            "peer_copy": {},
            "rows": [],
            "notes": [],
            "complete": False,
        }

    def save(self) -> None:
        if self.rank == 0:
            part = self.plan.result.with_suffix(".part")
            part.write_text(json.dumps(self.report, indent=1) + "\n")
            part.replace(self.plan.result)

    def times_ms(self, run: Callable[[], object]) -> list[float]:
        """Of `run` as a graph, by the device's clock; no rank begins before all are there."""
        if not self.is_gpu:
            return self._host_times_ms(run)
        graph = graph_of(run, "thread_local")  # NCCL's own thread must not break the capture
        flag = torch.zeros(1, device=self.device)
        pairs = []
        for _ in range(WARM_UP + self.plan.repeats):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            dist.all_reduce(flag)  # the barrier, on the stream: the host runs ahead of the device
            begin.record()
            graph.replay()
            end.record()
            pairs.append((begin, end))
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) for begin, end in pairs[WARM_UP:]]

    def _host_times_ms(self, run: Callable[[], object]) -> list[float]:
        times = []
        for _ in range(self.plan.repeats):
            dist.barrier()
            begin_s = time.perf_counter()
            run()
            times.append(1e3 * (time.perf_counter() - begin_s))
        return times

    def parts(self, step: ShareStep) -> Parts:
        """Compiled on all ranks or on none."""
        if not self.is_gpu:
            return Parts(reason="no GPU")
        parts = self.compiler.parts(lambda parts: step.run(parts, self.alone, DISTINCT_LAYERS))
        problems = [problem for problem in on_all(parts.reason) if problem]
        return Parts(reason=problems[0]) if problems else parts

    def check(self, step: ShareStep, parts: Parts, reducer: Reducer) -> None:
        """Two layers give all ranks the same bits, near those with sums in float32.

        RuntimeError otherwise.
        """
        seen = step.run(parts, reducer, DISTINCT_LAYERS).hidden
        wanted = step.run(parts, self.gathered, DISTINCT_LAYERS).hidden.float()
        relative = float((seen.float() - wanted).norm() / wanted.norm())
        digests = on_all(digest(seen))
        if not relative < TOLERANCE:  # nor where it is no number
            raise RuntimeError(f"{reducer.name}: {relative:.3g} away from sums in float32")
        if len(set(digests)) > 1:
            raise RuntimeError(f"{reducer.name}: the ranks differ in their residuals")

    def reduce_us(self, reducer: Reducer, rows: int) -> list[float]:
        operand = reducer.operand(rows, self.plan.sizes.hidden)

        def run() -> None:
            for _ in range(REDUCES):
                reducer.reduce(operand)

        return [1e3 * ms / REDUCES for ms in self.times_ms(run)]

    def measure(self, step: ShareStep, parts: Parts) -> dict[str, Any]:
        self.check(step, parts, self.group)
        share_ms = on_all(self.times_ms(lambda: step.run(parts, self.alone)))
        return {
            "rows": step.rows,
            "logit_rows": step.logit_rows,
            "flops": step.flops,
            "compiled": parts.compiled,
            "not_compiled_because": parts.reason,
            "step_ms": {"nccl": self.times_ms(lambda: step.run(parts, self.group))},
            "share_ms": max(share_ms, key=statistics.median),  # the slowest rank's
            "reduce_us": {"nccl": self.reduce_us(self.group, step.rows)},
        }

    def attempt(self, name: str, action: Callable[[], None]) -> bool:
        """Whether all ranks did it; where not, a note says why, and `name` is not tried again."""
        if name in self.broken:
            return False
        problem = ""
        try:
            action()
        except Exception as error:
            problem = reason(error)
        problems = [problem for problem in on_all(problem) if problem]
        if problems:
            self.broken.add(name)
            self.report["notes"].append(f"{name} omitted: {problems[0]}")
        return not problems

    def add_symmetric(
        self, buffer: SymmetricBuffer, step: ShareStep, parts: Parts, row: dict[str, Any]
    ) -> None:
        """The all-reduces over peers' memory; the step too where the better one beats NCCL's."""
        reducers = {name: Symmetric(name, buffer, step.rows) for name in SYMMETRIC}
        reduce_us: dict[str, list[float]] = row["reduce_us"]

        def reduce(name: str) -> None:
            self.check(step, parts, reducers[name])
            reduce_us[name] = self.reduce_us(reducers[name], step.rows)

        def run(name: str) -> None:
            row["step_ms"][name] = self.times_ms(lambda: step.run(parts, reducers[name]))

        for name in SYMMETRIC:
            if not self.attempt(name, lambda name=name: reduce(name)):  # type: ignore[misc]
                reduce_us.pop(name, None)
        best = on_all(min(reduce_us, key=lambda name: statistics.median(reduce_us[name])))[0]
        if best in reducers and not self.attempt(best, lambda: run(best)):
            row["step_ms"].pop(best, None)

    def run(self) -> None:
        plan = self.plan
        weights = ShareWeights(plan.sizes, plan.gpus, self.rank, self.device)
        kept = []
        for rows, logit_rows in plan.rows:
            step = ShareStep(weights, rows, logit_rows)
            parts = self.parts(step)
            row = self.measure(step, parts)
            kept.append((step, parts, row))
            self.report["rows"].append(row)
            self.save()
            self.tidy()
        buffers: list[SymmetricBuffer] = []

        def make_buffer() -> None:
            most = max(rows for rows, _ in plan.rows)
            buffers.append(SymmetricBuffer(most, plan.sizes.hidden, self.device))

        if plan.symmetric and self.attempt("symmetric memory", make_buffer):
            for step, parts, row in kept:
                self.add_symmetric(buffers[0], step, parts, row)
                self.save()
                self.tidy()
        self.report["complete"] = True
        self.save()

    def tidy(self) -> None:
        gc.collect()
        if self.is_gpu:
            torch.cuda.empty_cache()


def measure_on(rank: int, join: Callable[[], None], plan: Plan) -> None:
    """A rank's whole work."""
    bench = Bench(plan, rank)
    if bench.is_gpu and rank == 0:  # before NCCL's kernels spin on the other GPUs
        try:
            bench.report["peer_copy"] = peer_copy_rates()
        except Exception as error:
            bench.report["notes"].append(f"peer copies: {reason(error)}")
        bench.tidy()
    join()
    if bench.is_gpu:
        bench.report["hbm"] = on_all(hbm_rate())
    bench.run()
