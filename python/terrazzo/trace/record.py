"""The trace of one step with the work of its instructions: what all reports are made from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .._core import Programs

FORMAT = 1

# As include/terrazzo/core/trace_event.hpp has it.
EVENT = np.dtype(
    [
        ("begin_ns", np.uint64),
        ("end_ns", np.uint64),
        ("waited_ns", np.uint64),
        ("position", np.uint32),
        ("layer", np.int32),
        ("sm", np.uint16),
        ("gpu", np.uint8),
        ("role", np.uint8),
        ("opcode", np.uint16),
        ("reserved", np.uint16),
    ]
)

ROLES = ("controller", "loader", "consumer 0", "consumer 1", "storer 0", "storer 1")
LOADER, CONSUMER, OTHER_CONSUMER, STORER, OTHER_STORER = range(1, 6)

# Columns of `Program.work`.
KIND, FLOPS, TENSOR_FLOPS, SLOTS, STAGES, LOADED, WEIGHTS, CACHED, STORED, SENT = range(10)


@dataclass(frozen=True, slots=True)
class Program:
    """One GPU's program: a row of `work` and a text of `waits` for each instruction."""

    prologue: int  # instructions
    body: int  # of one layer
    epilogue: int
    work: NDArray[np.float64]  # [instructions, 10]
    waits: list[str]

    def instructions(self, positions: NDArray[np.uint32], num_layers: int) -> NDArray[np.int64]:
        """Row of each queue position."""
        place = positions.astype(np.int64)
        in_body = place - self.prologue
        after = in_body - self.body * num_layers
        row = np.where(in_body < 0, place, self.prologue + in_body % max(self.body, 1))
        return np.where(after >= 0, self.prologue + self.body + after, row)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one GPU can do at most."""

    num_sms: int
    hbm_gbps: float
    tensor_tflops: float
    nvlink_gbps: float


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to lower the step again, in the plain order: the arguments of the core's ModelShape, the
    step as the command line names it, and the SMs of a GPU."""

    shape: dict[str, float]
    step: str
    num_sms: int

    def programs(self) -> Programs:
        """The step's programs."""
        from .._core import ModelShape
        from .sources import programs_of
        from .steps import limits_of, parse_step, step_of

        batch = step_of(parse_step(self.step))
        arguments: Any = self.shape
        return programs_of(ModelShape(**arguments), limits_of(batch), batch, self.num_sms)


@dataclass(frozen=True, slots=True)
class StepTrace:
    """Events of all GPUs, times from the first on, with `hbm_bytes` of each loader event.

    `ready_ns`: when all that an event's instruction waits for had been signalled; 0 for nothing.
    `limits` is None where the machine has none worth comparing with (the host machine).
    """

    title: str  # the model and the step
    machine: str  # what ran it
    kinds: list[str]  # names by kind number
    num_layers: int
    num_sms: int  # of a GPU
    programs: list[Program]
    events: NDArray[np.void]  # [n] EVENT
    hbm_bytes: NDArray[np.float64]  # [n], 0 but for loaders
    ready_ns: NDArray[np.uint64]  # [n]
    limits: Limits | None
    recipe: Recipe | None = None

    @property
    def step_ns(self) -> float:
        """From the first event's begin to the last one's end."""
        return float(self.events["end_ns"].max() - self.events["begin_ns"].min())

    @property
    def work_ns(self) -> NDArray[np.float64]:
        """When each event could begin to work: nothing was missing that is in memory."""
        events = self.events
        started = np.clip(self.ready_ns, events["begin_ns"], events["end_ns"])
        return started.astype(np.float64)

    def role(self, role: int, gpu: int | None = None) -> NDArray[np.bool_]:
        """Which events are of this role (and GPU)."""
        chosen: NDArray[np.bool_] = self.events["role"] == role
        return chosen if gpu is None else chosen & (self.events["gpu"] == gpu)

    def work(self, events: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Rows of work of these events: [chosen, 10]."""
        chosen = self.events[events]
        rows = np.empty((len(chosen), self.programs[0].work.shape[1]))
        for gpu, program in enumerate(self.programs):
            own = chosen["gpu"] == gpu
            rows[own] = program.work[program.instructions(chosen["position"][own], self.num_layers)]
        return rows

    def window(self, layers: tuple[int, int] | None) -> tuple[int, int]:
        """Times (begin, end) in ns that show these layers [first, last]; None: all of the step."""
        events = self.events
        if layers is not None:
            inside = (events["layer"] >= layers[0]) & (events["layer"] <= layers[1])
            if not inside.any():
                raise ValueError(
                    f"[trace] layers {layers[0]} to {layers[1]}: the step has {self.num_layers}"
                )
            inside &= events["role"] == CONSUMER
            return int(self.work_ns[inside].min()), int(events["end_ns"][inside].max())
        return int(events["begin_ns"].min()), int(events["end_ns"].max())


def events_of(raw: bytes) -> NDArray[np.void]:
    """Events as the core gives them, in order of time, from time 0 on."""
    events = np.frombuffer(raw, EVENT)
    events = events[np.lexsort((events["role"], events["sm"], events["gpu"], events["begin_ns"]))]
    first = events["begin_ns"].min() if len(events) else np.uint64(0)
    for field in ("begin_ns", "end_ns"):
        events[field] -= first
    return events


def save_trace(trace: StepTrace, path: Path) -> None:
    """Writes a trace for later reports, and for `terrazzo bench calibrate`."""
    limits = trace.limits
    header = {
        "format": FORMAT,
        "title": trace.title,
        "machine": trace.machine,
        "kinds": trace.kinds,
        "num_layers": trace.num_layers,
        "num_sms": trace.num_sms,
        "programs": [
            {"sizes": [p.prologue, p.body, p.epilogue], "waits": p.waits} for p in trace.programs
        ],
        "limits": None
        if limits is None
        else [limits.num_sms, limits.hbm_gbps, limits.tensor_tflops, limits.nvlink_gbps],
        "recipe": None if trace.recipe is None else dataclasses.asdict(trace.recipe),
    }
    arrays = {f"work_{gpu}": program.work for gpu, program in enumerate(trace.programs)}
    np.savez_compressed(
        path,
        header=np.frombuffer(json.dumps(header).encode(), np.uint8),
        events=trace.events,
        hbm_bytes=trace.hbm_bytes,
        ready_ns=trace.ready_ns,
        **arrays,  # type: ignore[arg-type]
    )


def load_trace(path: Path) -> StepTrace:
    """Reads what `save_trace` wrote. Raises ValueError for another file."""
    with np.load(path) as data:
        if "header" not in data:
            raise ValueError(f"[trace] {path}: expected a trace written by terrazzo")
        header = json.loads(data["header"].tobytes())
        if header["format"] != FORMAT:
            raise ValueError(f"[trace] {path}: expected format {FORMAT}, got {header['format']}")
        programs = []
        for gpu, program in enumerate(header["programs"]):
            prologue, body, epilogue = program["sizes"]
            programs.append(
                Program(prologue, body, epilogue, data[f"work_{gpu}"], program["waits"])
            )
        return StepTrace(
            title=header["title"],
            machine=header["machine"],
            kinds=header["kinds"],
            num_layers=header["num_layers"],
            num_sms=header["num_sms"],
            programs=programs,
            events=data["events"],
            hbm_bytes=data["hbm_bytes"],
            ready_ns=data["ready_ns"],
            limits=None if header["limits"] is None else Limits(*header["limits"]),
            recipe=None if header["recipe"] is None else Recipe(**header["recipe"]),
        )
