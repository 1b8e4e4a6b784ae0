"""Baselines are kept for each device; a run on another one is not compared with them.

pytest tests/bench -m t4_bench --benchmark-save=NAME       keeps a baseline for this device
pytest tests/bench -m t4_bench --benchmark-compare         fails on a median 5% slower
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from bench.gpu_info import commit, gpu_info

from terrazzo.bench.machine import device_name

BASELINES = Path(__file__).parent / "baselines"
SLOWER = "median:5%"
_NOT_COMPARED = pytest.StashKey[bool]()


def _device() -> str:
    """The machine that benchmarks run on: the GPU where there is one that works."""
    try:
        from terrazzo._core import cuda_problem

        return device_name("host" if cuda_problem() else "cuda")
    except ImportError:
        return device_name("host")


def _folder_name(device: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-").lower()


def _has_baseline() -> bool:
    return any((BASELINES / _folder_name(_device())).glob("*/*.json"))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Before pytest-benchmark reads its options."""
    option = config.option
    if not hasattr(option, "benchmark_compare"):
        return  # the plugin is not there
    if option.benchmark_storage == "file://./.benchmarks":
        option.benchmark_storage = (BASELINES / _folder_name(_device())).as_uri()
    if option.benchmark_compare and not _has_baseline():
        option.benchmark_compare = None
        config.stash[_NOT_COMPARED] = True
    elif option.benchmark_compare and not option.benchmark_compare_fail:
        from pytest_benchmark.utils import parse_compare_fail

        option.benchmark_compare_fail = [parse_compare_fail(SLOWER)]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.stash.get(_NOT_COMPARED, False):
        others = sorted({path.parent.parent.name for path in BASELINES.glob("*/*/*.json")})
        known = f"there are some of {', '.join(others)}" if others else "there are none"
        terminalreporter.write_line(
            f"NOT COMPARED: no baseline of this device, {_device()} ({known}); "
            "--benchmark-save=NAME makes one"
        )


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: Any) -> None:
    """Put device, driver and commit into every file."""
    del config
    machine_info["device"] = _device()
    machine_info["commit"] = commit()
    machine_info["gpu"] = gpu_info()
