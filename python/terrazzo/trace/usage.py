"""How much of the tensor cores, HBM and NVLink a step used over time."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .record import CONSUMER, LOADER, SENT, STORER, TENSOR_FLOPS, StepTrace

Floats = NDArray[np.float64]
CHUNK = 4096  # events spread over the bins at a time


class Usage(NamedTuple):
    """Rates of one GPU in bins of equal length; FLOP/s as issued to the tensor cores."""

    edges_ns: Floats  # [bins + 1]
    tensor_tflops: Floats  # [bins]
    hbm_gbps: Floats  # [bins]
    nvlink_gbps: Floats  # [bins], outwards


def spread(edges: Floats, begin: Floats, end: Floats, amount: Floats) -> Floats:
    """What falls into each bin when each amount is spread evenly over its time: [bins]."""
    total = np.zeros(len(edges))
    for first in range(0, len(begin), CHUNK):
        part = slice(first, first + CHUNK)
        length = np.maximum(end[part] - begin[part], 1e-3)[:, None]
        done = np.clip((edges[None, :] - begin[part, None]) / length, 0, 1)
        total += amount[part] @ done
    return np.diff(total)


def usage_of(trace: StepTrace, gpu: int, window: tuple[int, int], bins: int) -> Usage:
    """Rates of a GPU between two times."""
    edges = np.linspace(*window, bins + 1)
    width_ns = (window[1] - window[0]) / bins

    started = trace.work_ns

    def rate(role: int, amounts: Floats) -> Floats:
        chosen = trace.role(role, gpu)
        end = trace.events["end_ns"][chosen].astype(float)
        return spread(edges, started[chosen], end, amounts) / width_ns

    loads = trace.role(LOADER, gpu)
    return Usage(
        edges,
        rate(CONSUMER, trace.work(trace.role(CONSUMER, gpu))[:, TENSOR_FLOPS]) * 1e-3,
        rate(LOADER, trace.hbm_bytes[loads]),
        rate(STORER, trace.work(trace.role(STORER, gpu))[:, SENT]),
    )
