"""A trace for ui.perfetto.dev or chrome://tracing: a process a GPU, a track an SM and role."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .record import FLOPS, KIND, LOADED, LOADER, ROLES, SENT, STORED, StepTrace
from .usage import usage_of

Entry = dict[str, Any]
BINS = 500  # of the counters
ROLES_PER_SM = 8  # track numbers: an SM, then its roles


def entries(trace: StepTrace, layers: tuple[int, int] | None = None) -> Iterator[Entry]:
    """Entries of the Trace Event Format; times in microseconds."""
    begin, end = trace.window(layers)
    shown = (trace.events["end_ns"] > begin) & (trace.events["begin_ns"] < end)
    for gpu in range(len(trace.programs)):
        yield _metadata("process_name", gpu, 0, f"GPU {gpu}")
        for sm in range(trace.num_sms):
            for role, name in enumerate(ROLES):
                track = sm * ROLES_PER_SM + role
                yield _metadata("thread_name", gpu, track, f"SM {sm:03d} {name}")
                yield {
                    **_metadata("thread_sort_index", gpu, track, ""),
                    "args": {"sort_index": track},
                }
        yield from _events(trace, gpu, shown & (trace.events["gpu"] == gpu))
        yield from _counters(trace, gpu, (begin, end))


def write_perfetto(trace: StepTrace, path: Path, layers: tuple[int, int] | None = None) -> None:
    """Writes the trace as JSON, compressed if the name ends in .gz."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write('{"displayTimeUnit":"ns","otherData":')
        json.dump({"title": trace.title, "machine": trace.machine}, file)
        file.write(',"traceEvents":[\n')
        for i, entry in enumerate(entries(trace, layers)):
            file.write(("" if i == 0 else ",\n") + json.dumps(entry, separators=(",", ":")))
        file.write("\n]}\n")


def _metadata(kind: str, gpu: int, track: int, name: str) -> Entry:
    return {"name": kind, "ph": "M", "pid": gpu, "tid": track, "args": {"name": name}}


def _events(trace: StepTrace, gpu: int, chosen: Any) -> Iterator[Entry]:
    program = trace.programs[gpu]
    events = trace.events[chosen]
    work = trace.work(chosen)
    hbm_bytes = trace.hbm_bytes[chosen]
    instructions = program.instructions(events["position"], trace.num_layers)
    for event, amounts, hbm, instruction in zip(events, work, hbm_bytes, instructions, strict=True):
        track = int(event["sm"]) * ROLES_PER_SM + int(event["role"])
        begin, length = int(event["begin_ns"]), int(event["end_ns"] - event["begin_ns"])
        arguments: Entry = {
            "layer": int(event["layer"]),
            "position": int(event["position"]),
            "waited us": int(event["waited_ns"]) * 1e-3,
            "FLOPs": float(amounts[FLOPS]),
            "bytes loaded": int(amounts[LOADED]),
            "bytes stored": int(amounts[STORED] + amounts[SENT]),
        }
        waits = program.waits[instruction]
        if event["role"] == LOADER:
            arguments["bytes from HBM"] = int(hbm)
            arguments["waits for"] = waits
        yield _slice(trace.kinds[int(amounts[KIND])], gpu, track, begin, length, arguments)
        if event["role"] == LOADER and waits and event["waited_ns"] > 0:
            waited = int(event["waited_ns"])
            yield _slice(f"waits for {waits}", gpu, track, begin, waited, {})


def _slice(name: str, gpu: int, track: int, begin: int, length: int, arguments: Entry) -> Entry:
    return {
        "name": name,
        "ph": "X",
        "pid": gpu,
        "tid": track,
        "ts": begin * 1e-3,
        "dur": length * 1e-3,
        "args": arguments,
    }


def _counters(trace: StepTrace, gpu: int, window: tuple[int, int]) -> Iterator[Entry]:
    usage = usage_of(trace, gpu, window, BINS)
    for name, values in (
        ("tensor cores TFLOP/s", usage.tensor_tflops),
        ("HBM GB/s", usage.hbm_gbps),
        ("NVLink GB/s", usage.nvlink_gbps),
    ):
        for time, value in zip(usage.edges_ns[:-1], np.round(values, 2), strict=True):
            yield {
                "name": name,
                "ph": "C",
                "pid": gpu,
                "tid": 0,
                "ts": float(time) * 1e-3,
                "args": {name: float(value)},
            }
