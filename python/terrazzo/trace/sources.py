"""Traces from the machines: simulated steps, and steps of the host machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..runner import arrays_of
from .archive import merge_warps
from .record import EVENT, LOADER, STORER, Limits, Program, StepTrace, events_of

if TYPE_CHECKING:
    from .._core import CostModel, CudaModel, HostModel, ModelShape, Programs, StepLimits
    from ..costs import DeviceCosts
    from ..step import StepInput
    from .archive import Events


def programs_of(
    shape: ModelShape, limits: StepLimits, batch: StepInput, num_sms: int, **options: Any
) -> Programs:
    """The step's programs for GPUs with `num_sms` SMs."""
    from .._core import Programs

    return Programs(shape, limits, arrays_of(batch), num_sms=num_sms, **options)


def trace_of(
    raw: bytes,
    programs: Programs,
    costs: DeviceCosts,
    *,
    title: str,
    machine: str,
    num_sms: int,
    has_limits: bool,
) -> StepTrace:
    """A trace from a machine's events; L2 as `costs` has it says what came from HBM."""
    from .._core import kind_names

    model = costs.model()
    events = events_of(raw)
    limits = None
    if has_limits:
        limits = Limits(
            num_sms, model.get("hbm_gbps"), model.get("tensor_tflops"), model.get("nvlink_gbps")
        )
    tables = []
    for gpu in range(programs.num_gpus):
        prologue, body, epilogue = programs.sizes(gpu)
        work, waits = programs.work(gpu), programs.waits(gpu)
        tables.append(Program(prologue, body, epilogue, work, waits))
    ready = _ready_ns(events, programs, tables)
    return StepTrace(
        title=title,
        machine=machine,
        kinds=kind_names(),
        num_layers=programs.num_layers,
        num_sms=num_sms,
        programs=tables,
        events=events,
        ready_ns=ready,
        hbm_bytes=_hbm_bytes(events, ready, programs, model),
        limits=limits,
    )


def _hbm_bytes(
    events: NDArray[np.void], ready: NDArray[np.uint64], programs: Programs, model: CostModel
) -> NDArray[np.float64]:
    from .._core import hbm_bytes

    out = np.zeros(len(events))
    begin = np.clip(ready, events["begin_ns"], events["end_ns"]).astype(np.float64)
    end = events["end_ns"].astype(np.float64)
    for gpu in range(programs.num_gpus):
        loads = np.flatnonzero((events["role"] == LOADER) & (events["gpu"] == gpu))
        loads = loads[np.argsort(begin[loads], kind="stable")]
        positions = np.ascontiguousarray(events["position"][loads])
        out[loads] = hbm_bytes(programs, model, gpu, positions, begin[loads], end[loads])[:, 0]
    return out


class _ByInstruction:
    """Events of one GPU, found by the instruction that they belong to."""

    def __init__(
        self, events: NDArray[np.void], chosen: NDArray[np.bool_], program: Program, layers: int
    ) -> None:
        self.indices = np.flatnonzero(chosen)
        rows = program.instructions(events["position"][self.indices], layers)
        order = np.argsort(rows, kind="stable")
        self.indices = self.indices[order]
        self.bounds = np.searchsorted(rows[order], np.arange(len(program.work) + 1))

    def of(self, row: int) -> NDArray[np.int64]:
        """Indices of the instruction's events."""
        return self.indices[self.bounds[row] : self.bounds[row + 1]]


def _ready_ns(
    events: NDArray[np.void], programs: Programs, tables: list[Program]
) -> NDArray[np.uint64]:
    """When the last signal was given that each event's instruction waits for."""
    block, layers = programs.counters_per_block, programs.num_layers
    bases = (events["layer"].astype(np.int64) + 1) * block
    signalled = np.zeros((len(tables), block * (layers + 2)), np.uint64)
    for gpu, table in enumerate(tables):
        stores = (events["gpu"] == gpu) & (events["role"] >= STORER)
        found = _ByInstruction(events, stores, table, layers)
        for row, counter, gpus in programs.dependencies(gpu, True).astype(np.int64):
            own = found.of(row)
            for target in range(len(tables)):
                if gpus >> target & 1:
                    np.maximum.at(signalled[target], bases[own] + counter, events["end_ns"][own])
    ready = np.zeros(len(events), np.uint64)
    for gpu, table in enumerate(tables):
        found = _ByInstruction(events, events["gpu"] == gpu, table, layers)
        for row, first, count in programs.dependencies(gpu, False).astype(np.int64):
            own = found.of(row)
            run = bases[own][:, None] + np.arange(first, first + count)
            ready[own] = np.maximum(ready[own], signalled[gpu][run].max(axis=1, initial=0))
    return ready


def simulated_trace(programs: Programs, costs: DeviceCosts, title: str) -> StepTrace:
    """Simulates a step."""
    from .._core import simulate

    model = costs.model()
    num_sms = int(model.get("num_sms"))
    _, _, raw = simulate(programs, model, trace=True)
    machine = f"simulated {costs.label}"
    return trace_of(
        raw, programs, costs, title=title, machine=machine, num_sms=num_sms, has_limits=True
    )


def host_trace(
    model: HostModel, batch: StepInput, costs: DeviceCosts, *, num_sms: int, title: str
) -> StepTrace:
    """Runs a step on the host machine. `costs` only says what its L2 would hold."""
    from .._core import trace_host_step

    raw = trace_host_step(model, arrays_of(batch))
    programs = programs_of(model.shape, model.limits, batch, num_sms)
    return trace_of(
        raw, programs, costs, title=title, machine="host machine", num_sms=num_sms, has_limits=False
    )


def cuda_trace(model: CudaModel, batch: StepInput, costs: DeviceCosts, title: str) -> StepTrace:
    """Runs a step on the GPU; the model must have been made with room for trace events."""
    model.collect(model.submit(arrays_of(batch)))
    raw = model.trace()
    if not raw:
        raise ValueError("[trace] the CUDA model records no events: expected trace_events")
    programs = programs_of(model.shape, model.limits, batch, model.num_sms)
    events = merge_warps(np.frombuffer(raw, EVENT))
    return _gpu_trace(events, programs, costs, title, model.num_sms)


def recorded_trace(recorded: Events, costs: DeviceCosts) -> StepTrace:
    """The trace of a launch in an archive. Raises ValueError where its programs would be lowered
    differently now."""
    run = recorded.run
    programs = run.programs()
    size = int(recorded.events["position"].max(initial=0)) + 1
    prologue, body, epilogue = programs.sizes(0)
    if size != prologue + body * programs.num_layers + epilogue:
        raise ValueError(
            f"[trace] {run.title}: expected {prologue + body * programs.num_layers + epilogue} "
            f"instructions, got {size}: recorded by a version that lowers differently"
        )
    return _gpu_trace(recorded.events, programs, costs, run.title, run.num_sms)


def _gpu_trace(
    events: NDArray[np.void], programs: Programs, costs: DeviceCosts, title: str, num_sms: int
) -> StepTrace:
    """The GPU does not say how long a role waited: as long as what it waits for was missing."""
    trace = trace_of(
        events.tobytes(),
        programs,
        costs,
        title=title,
        machine=costs.device,
        num_sms=num_sms,
        has_limits=True,
    )
    waited = trace.work_ns - trace.events["begin_ns"].astype(np.float64)
    trace.events["waited_ns"] = np.maximum(trace.events["waited_ns"], waited.astype(np.uint64))
    return trace
