"""Baselines are kept for each device; a run on another one is not compared with them.

pytest tests/bench -m t4_bench --benchmark-save=NAME       keeps a baseline for this device
pytest tests/bench -m t4_bench --benchmark-compare         fails on a median 5% slower
"""

from __future__ import annotations

from typing import Any

import pytest
from bench.baseline_files import BASELINES, device_folder, of_this_python, python_folder
from bench.gpu_info import commit, gpu_info

from terrazzo.bench.machine import device_name

SLOWER = "median:5%"
_NOT_COMPARED = pytest.StashKey[bool]()


def _device() -> str:
    """The machine that benchmarks run on: the GPU where there is one that works."""
    try:
        from terrazzo._core import cuda_problem

        return device_name("host" if cuda_problem() else "cuda")
    except ImportError:
        return device_name("host")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Before pytest-benchmark reads its options."""
    option = config.option
    if not hasattr(option, "benchmark_compare"):
        return  # the plugin is not there
    if option.benchmark_storage == "file://./.benchmarks":
        option.benchmark_storage = (BASELINES / device_folder(_device())).as_uri()
    if option.benchmark_compare and not of_this_python(_device()):
        option.benchmark_compare = None
        config.stash[_NOT_COMPARED] = True
    elif option.benchmark_compare and not option.benchmark_compare_fail:
        from pytest_benchmark.utils import parse_compare_fail

        option.benchmark_compare_fail = [parse_compare_fail(SLOWER)]


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Before pytest-benchmark stops at a regression."""
    if config.stash.get(_NOT_COMPARED, False):
        found = {path.parent for path in BASELINES.glob("*/*/*.json")}
        others = sorted(f"{path.parent.name} ({path.name})" for path in found)
        known = f"there are some of {', '.join(others)}" if others else "there are none"
        terminalreporter.write_line(
            f"NOT COMPARED: no baseline of this device, {_device()} ({python_folder()}): {known}; "
            "--benchmark-save=NAME makes one"
        )
        return
    session = getattr(config, "_benchmarksession", None)
    if session is None or not session.compare or not session.compared_mapping:
        return
    known_names = {name for kept in session.compared_mapping.values() for name in kept}
    names = [bench.fullname for bench in session.benchmarks if bench]
    new = [name for name in names if name not in known_names]
    terminalreporter.write_line(
        f"compared with {', '.join(map(str, session.compared_mapping))}: "
        f"{len(names) - len(new)} of {len(names)} benchmarks"
    )
    for name in new:
        terminalreporter.write_line(f"NOT COMPARED: {name} is not in the baseline")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: Any) -> None:
    """Put device, driver and commit into every file."""
    del config
    machine_info.pop("node", None)  # names of machines are nobody's business
    machine_info["device"] = _device()
    machine_info["python_folder"] = python_folder()
    machine_info["commit"] = commit()
    machine_info["gpu"] = gpu_info()
