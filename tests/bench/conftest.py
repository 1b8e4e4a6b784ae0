"""Baselines are kept for each device; a run on another one is not compared with them.

pytest tests/bench -m t4_bench --benchmark-save=NAME       keeps a baseline for this device
pytest tests/bench -m t4_bench --benchmark-compare         fails on a median 5% slower
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from terrazzo.bench.machine import device_name

BASELINES = Path(__file__).parent / "baselines"
SLOWER = "median:5%"


def _device() -> str:
    """The machine that benchmarks run on: the GPU where there is one that works."""
    try:
        from terrazzo._core import cuda_problem

        return device_name("host" if cuda_problem() else "cuda")
    except ImportError:
        return device_name("host")


def _folder_name(device: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-").lower()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Before pytest-benchmark reads its options."""
    option = config.option
    if getattr(option, "benchmark_storage", "file://./.benchmarks") == "file://./.benchmarks":
        option.benchmark_storage = (BASELINES / _folder_name(_device())).as_uri()
    if getattr(option, "benchmark_compare", None) and not option.benchmark_compare_fail:
        from pytest_benchmark.utils import parse_compare_fail

        option.benchmark_compare_fail = [parse_compare_fail(SLOWER)]


def pytest_report_header(config: pytest.Config) -> str:
    device = _device()
    folder = BASELINES / _folder_name(device)
    if list(folder.glob("*/*.json")):
        return f"benchmarks: {device}, compared with its own baselines in {folder.name}"
    others = sorted(path.name for path in BASELINES.glob("*") if path.is_dir())
    known = f"there are some for {', '.join(others)}" if others else "there are none"
    return f"benchmarks: {device} has no baseline, so nothing is compared ({known})"


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: Any) -> None:
    """Put the device into every file."""
    del config
    machine_info["device"] = _device()
