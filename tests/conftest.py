"""Sorts tests by the hardware they need, and fixes how Hypothesis draws."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import HealthCheck, settings

from terrazzo.env import DEVICE, REQUIRE_GPU

# Tests name the machine they mean; where they do not, it is the host machine on any computer.
os.environ.setdefault(DEVICE.name, "host")

# Timings on a shared machine say nothing, so no deadline. In CI the draws are fixed: a failure
# there belongs to the change that caused it.
settings.register_profile(
    "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.register_profile("ci", settings.get_profile("default"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


def _gpu_problem(num_gpus: int) -> str:
    """Why the CUDA machine cannot run on so many GPUs; empty if it can."""
    from terrazzo._core import cuda_problem

    return cuda_problem(num_gpus)


def _require(condition: bool, missing: str, *, is_gpu: bool = False) -> None:
    if condition:
        return
    if is_gpu and REQUIRE_GPU.read():
        pytest.fail(f"{missing}, and {REQUIRE_GPU.name}=1", pytrace=False)
    pytest.skip(missing)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip, with the reason, what this machine has no hardware or compiler for."""
    if item.get_closest_marker("t1_nvcc"):
        found = os.environ.get("CUDACXX") or shutil.which("nvcc")
        _require(bool(found), "needs nvcc: none on PATH and CUDACXX is not set")
    if item.get_closest_marker("t2_gpu"):
        problem = _gpu_problem(1)
        _require(not problem, f"needs a GPU: {problem}", is_gpu=True)
    if item.get_closest_marker("t3_multigpu"):
        problem = _gpu_problem(2)
        _require(not problem, f"needs several GPUs: {problem}", is_gpu=True)
