"""What a measurement was made on: goes into every JSON file."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# Dense bf16 peak of one GPU, in flop/s, by a part of its name.
_PEAK_FLOPS = {"H100 PCIe": 756e12, "H100": 989.4e12, "H200": 989.4e12, "H800": 989.4e12}


def describe(device: str, gpus: int) -> dict[str, Any]:
    """Device, driver, versions, commit and command; what cannot be found out is None."""
    facts: dict[str, Any] = {
        "device": device_name(device),
        "gpus": gpus,
        "driver_cuda": None,
        "runtime_cuda": None,
        "terrazzo": _version("terrazzo"),
        "python": platform.python_version(),
        "numpy": _version("numpy"),
        "commit": _commit(),
        "command": shlex.join(["terrazzo", *sys.argv[1:]]),
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
    }
    if device == "cuda":
        from .._core import cuda_device

        gpu = cuda_device()
        facts["driver_cuda"] = _cuda_version(gpu.driver_version)
        facts["runtime_cuda"] = _cuda_version(gpu.runtime_version)
    return facts


def device_name(device: str) -> str:
    """The GPU's name, or the CPU's."""
    if device == "cuda":
        from .._core import cuda_device

        return cuda_device().name
    return f"host: {_cpu_name()}, {os.cpu_count()} cores"


def peak_flops(device: str, gpus: int) -> float | None:
    """The machine's dense bf16 peak in flop/s; None where it is not known."""
    if device != "cuda":
        return None
    name = device_name(device)
    found = [peak for part, peak in _PEAK_FLOPS.items() if part in name]
    return found[0] * gpus if found else None


def _cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _commit() -> str | None:
    """Of the repository that the package is used from, with a mark if files differ from it."""
    folder = Path(__file__).parent
    try:
        commit = _git(folder, "rev-parse", "--short=12", "HEAD")
        inside = _git(folder, "ls-files", "--error-unmatch", Path(__file__).name)
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return None  # installed, not a checkout
    return f"{commit}{'+changes' if changed else ''}" if inside else None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
