"""The machines that a test runs on: one that needs a GPU is skipped, with the reason, without."""

from __future__ import annotations

from typing import Any

import pytest

from terrazzo._core import cuda_device, cuda_problem

# The CUDA machine's kernel on lanes (tests/cpp/cuda/lanes) stands for a GPU.
ON_LANES = not cuda_problem() and cuda_device().name == "lanes"
needs_gpu_speed = pytest.mark.skipif(ON_LANES, reason="too much work for lanes")

DEVICES = ("host", pytest.param("cuda", marks=pytest.mark.t2_gpu))


def machine(device: str, *, num_sms: int = 2, gpus: int = 1) -> dict[str, Any]:
    """Options of a runner on `gpus` virtual GPUs: few virtual SMs each on the host, or equal shares
    of one GPU's SMs."""
    if device == "host":
        return {"device": device, "gpus": gpus, "num_sms": num_sms, "num_threads": num_sms}
    return {"device": device, "gpus": gpus, "ranks_per_gpu": gpus}
