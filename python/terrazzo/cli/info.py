"""`terrazzo info`: what this installation is and what it can run on."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .. import env
from .options import Subparsers

# Instruction sets that the host machine's speed depends on, as Linux names them.
CPU_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "bf16")


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "info",
        help="show version, machines and folders",
        description="Show version, machines and folders.",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print one `name: value` line for each fact."""
    del options
    from .._core import cuda_built, cuda_problem

    cuda = "built" if cuda_built() else "not built (no nvcc was found or wanted)"
    problem = cuda_problem()
    facts = {
        "version": _version(),
        "package": Path(__file__).parents[1],
        "python": f"{platform.python_version()} ({platform.machine()})",
        "machines": "host" if problem else "host, cuda",
        "cuda": cuda,
        "gpu": f"none: {problem}" if problem else _gpu(),
        "cpu": f"{os.cpu_count()} cores, {' '.join(cpu_features()) or 'no known features'}",
        "cache": env.cache_dir(),
    }
    for name, value in facts.items():
        print(f"{name + ':':<10} {value}")
    return 0


def _gpu() -> str:
    """The GPU that models would run on."""
    from .._core import cuda_device

    gpu = cuda_device()
    driver, runtime = (
        f"{version // 1000}.{version % 1000 // 10}"
        for version in (gpu.driver_version, gpu.runtime_version)
    )
    return (
        f"{gpu.name}, {gpu.num_sms} SMs, {gpu.free_bytes / 2**30:.1f} of "
        f"{gpu.total_bytes / 2**30:.1f} GiB free, driver for CUDA {driver}, runtime {runtime}"
    )


def _version() -> str:
    try:
        return version("terrazzo")
    except PackageNotFoundError:
        return "unknown: the package is on the path, but not installed"


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> list[str]:
    """Which of CPU_FEATURES this machine has; none where the system does not tell."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            present = set(value.split())
            return [feature for feature in CPU_FEATURES if feature in present]
    return []
