"""Which machine runs a model: the GPU, or the host machine on the CPU."""

from __future__ import annotations

import logging

from . import env

DEVICES = ("auto", "host", "cuda")

_log = logging.getLogger(__name__)


def resolve_device(
    device: str, *, gpus: int = 1, ranks_per_gpu: int = 1, num_threads: int | None = None
) -> str:
    """`host` or `cuda`; `auto` takes GPUs where there are such that can do it, and logs why not.

    A model on `gpus` GPUs needs `gpus / ranks_per_gpu` real ones on cuda.

    What is asked for is taken or refused, never replaced: ValueError says what is missing and what
    to do about it.
    """
    if device not in DEVICES:
        raise ValueError(f"[device] expected auto, host or cuda, got {device!r}")
    if device == "auto":
        device = env.DEVICE.read()
    if device == "host":
        return device
    problem = _cuda_problem(gpus, ranks_per_gpu, num_threads)
    if not problem:
        _log.info("device: cuda")
        return "cuda"
    if device == "cuda":
        raise ValueError(f"[device] 'cuda': {problem}")
    _log.info("device: host, as for 'cuda' %s", problem)
    return "host"


def _cuda_problem(gpus: int, ranks_per_gpu: int, num_threads: int | None) -> str:
    """Why the CUDA machine cannot do what is wanted; empty if it can."""
    from ._core import cuda_problem

    if num_threads is not None:
        return "num_threads does not apply: only the host machine runs SMs on threads"
    if ranks_per_gpu < 1 or gpus % ranks_per_gpu != 0:
        return f"expected ranks_per_gpu to divide gpus={gpus}, got {ranks_per_gpu}"
    problem = cuda_problem(gpus // ranks_per_gpu)
    if problem and gpus > ranks_per_gpu:
        return f"gpus={gpus}: {problem}"
    return problem
