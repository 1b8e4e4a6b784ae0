"""Archives of measured steps, as tests/gpu/bench_step.cpp writes them."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .record import CONSUMER, EVENT, KIND, STORER, Program

if TYPE_CHECKING:
    from .._core import Programs

SHORT_ORDER = 12  # characters of an order's text in a title
WHOLE_GPU = 132  # SMs that titles do not tell
COLUMNS = ("role", "position", "layer", "opcode", "sm", "begin_ns", "duration_ns")


@dataclass(frozen=True, slots=True)
class Run:
    """A launch: the arguments of the core's ModelShape, the step as `terrazzo trace` names it, the
    order as the core's Programs takes it, and the one kind of instruction that ran, without waits
    (empty: all). `ms`: median time of such launches; 0 where only events were taken.
    """

    shape: dict[str, float]
    step: str
    num_sms: int
    order: str
    kind: str
    ms: float

    @classmethod
    def parse(cls, line: str, source: str) -> Run:
        """Reads a line of JSON. Raises ValueError for anything else."""
        try:
            return cls(**json.loads(line))
        except (json.JSONDecodeError, TypeError) as error:
            message = f"[archive] {source}: expected a record of a launch: {error}"
            raise ValueError(message) from error

    @property
    def title(self) -> str:
        """Sizes and step, for people."""
        order = "" if self.order == "plain" else f", woven {self.order[:SHORT_ORDER]}"
        return (
            f"{self.shape['hidden']:.0f} wide, {self.shape['num_layers']:.0f} layers, {self.step}"
            f"{order}{', ' + self.kind if self.kind else ''}"
            + (f", {self.num_sms} SMs" if self.num_sms != WHOLE_GPU else "")
        )

    def programs(self) -> Programs:
        """The programs that ran, lowered again."""
        from .._core import ModelShape, Programs
        from ..runner import arrays_of
        from .steps import limits_of, parse_step, step_of

        batch = step_of(parse_step(self.step))
        arguments: Any = self.shape
        return Programs(
            ModelShape(**arguments),
            limits_of(batch),
            arrays_of(batch),
            num_sms=self.num_sms,
            order=self.order,
            only=self.kind,
        )


@dataclass(frozen=True, slots=True)
class Events:
    """The events of a launch, one an instruction and role."""

    run: Run
    events: NDArray[np.void]  # [n] EVENT


def parse_events(data: bytes, source: str) -> Events:
    """Reads a file of events. Raises ValueError for anything else."""
    head, newline, body = data.partition(b"\n")
    if not newline or len(body) % (4 * len(COLUMNS)) != 0:
        raise ValueError(f"[archive] {source}: expected a line of JSON and {len(COLUMNS)} columns")
    run = Run.parse(head.decode(), source)
    count = len(body) // (4 * len(COLUMNS))
    planes = np.frombuffer(body, np.uint8).reshape(len(COLUMNS), 4, count).astype(np.uint32)
    values = planes[:, 0] | planes[:, 1] << 8 | planes[:, 2] << 16 | planes[:, 3] << 24
    columns = dict(zip(COLUMNS, values.view(np.int32).astype(np.int64), strict=True))
    for name in COLUMNS[:-1]:
        columns[name] = np.cumsum(columns[name])
    columns["begin_ns"] -= columns["begin_ns"].min(initial=0)
    columns["end_ns"] = columns["begin_ns"] + columns.pop("duration_ns")
    events = np.zeros(count, EVENT)
    for name, column in columns.items():
        events[name] = column
    return Events(run, merge_warps(events))


def merge_warps(events: NDArray[np.void]) -> NDArray[np.void]:
    """One event for all warps of a role that left one: from the first begin to the last end."""
    order = np.lexsort((events["position"], events["role"], events["gpu"]))
    events = events[order]
    if len(events) == 0:
        return events
    same = np.ones(len(events), np.bool_)
    same[0] = False
    for name in ("gpu", "role", "position"):
        same[1:] &= events[name][1:] == events[name][:-1]
    first = np.flatnonzero(~same)
    merged: NDArray[np.void] = events[first]
    merged["begin_ns"] = np.minimum.reduceat(events["begin_ns"], first)
    merged["end_ns"] = np.maximum.reduceat(events["end_ns"], first)
    merged["waited_ns"] = np.minimum.reduceat(events["waited_ns"], first)
    return merged


def store_lags(traces: Sequence[Events]) -> dict[str, float]:
    """By kind of instruction, the median time in ns from the consumers' end to the storers'."""
    from .._core import kind_names

    names = kind_names()
    lags: dict[str, list[NDArray[np.float64]]] = {}
    for trace in traces:
        programs = trace.run.programs()
        prologue, body, epilogue = programs.sizes(0)
        table = Program(prologue, body, epilogue, programs.work(0), [])
        ends: dict[int, NDArray[np.void]] = {}
        for role in (CONSUMER, STORER):
            chosen = trace.events[trace.events["role"] == role]
            ends[role] = chosen[np.argsort(chosen["position"])]
        if len(ends[CONSUMER]) != len(ends[STORER]):
            raise ValueError(f"[archive] {trace.run.title}: expected an event of each role")
        rows = table.instructions(ends[STORER]["position"], programs.num_layers)
        kinds = table.work[rows, KIND].astype(int)
        lag = ends[STORER]["end_ns"].astype(float) - ends[CONSUMER]["end_ns"].astype(float)
        for kind in np.unique(kinds):
            lags.setdefault(names[kind], []).append(lag[kinds == kind])
    return {kind: max(float(np.median(np.concatenate(all_))), 0.0) for kind, all_ in lags.items()}


def _files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a folder's or a tar file's members, in the order of their names."""
    if path.is_dir():
        for member in sorted(path.rglob("*")):
            if member.is_file():
                yield str(member.relative_to(path)), member.read_bytes()
        return
    with tarfile.open(path) as archive:
        for info in sorted(archive.getmembers(), key=lambda info: info.name):
            file = archive.extractfile(info)
            if file is not None:
                yield info.name.removeprefix("./"), file.read()


@dataclass(frozen=True, slots=True)
class Archive:
    """What was measured, by part: "fit", "held" (out) and others."""

    runs: dict[str, list[Run]]
    events: dict[str, list[Events]]


def read_archive(path: Path) -> Archive:
    """Reads a folder or tar file with PART/runs.jsonl and PART/*.events. Raises ValueError."""
    archive = Archive({}, {})
    for name, data in _files(path):
        part = name.rpartition("/")[0]
        if name.endswith(".jsonl"):
            lines = data.decode().splitlines()
            archive.runs.setdefault(part, []).extend(Run.parse(line, name) for line in lines)
        elif name.endswith(".events"):
            archive.events.setdefault(part, []).append(parse_events(data, name))
    if not archive.runs and not archive.events:
        raise ValueError(f"[archive] {path}: expected runs.jsonl or files of events")
    return archive
