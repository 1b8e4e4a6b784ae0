"""How long the host takes to build programs: a 70B model on eight GPUs, an 8B model on one."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

pytestmark = pytest.mark.t4_bench

ROOT = Path(__file__).parents[2]
LIMIT_MS = 1.0  # a GPU


def newest(name: str, under: str = "lower") -> Path:
    """The executable of this name that was built last, with optimisation."""
    found = [
        folder / "tests/cpp" / under / name
        for folder in (ROOT / "build").glob("*")
        if (folder / "tests/cpp" / under / name).is_file()
        and "CMAKE_BUILD_TYPE:STRING=Release\n" in (folder / "CMakeCache.txt").read_text()
    ]
    if not found:
        pytest.skip(f"needs a Release build with {name} under build/: run tools/test")
    return max(found, key=lambda path: path.stat().st_mtime)


def test_lowering(benchmark: BenchmarkFixture) -> None:
    """The executable takes the median of 51 lowerings itself, in CPU time, and verifies one.

    Its first lowering also allocates the programs' memory, once in a process; it is noted here.
    """
    bench_lower = newest("bench_lower")
    outputs: list[str] = []

    def run() -> None:
        result = subprocess.run([bench_lower], capture_output=True, text=True, check=False)
        outputs.append(result.stdout + result.stderr)

    benchmark.pedantic(run, rounds=1)
    (output,) = outputs
    times = re.search(r"lower, a GPU: ([\d.]+) ms \(first ([\d.]+)\)", output)
    assert times is not None, output
    median_ms, first_ms = map(float, times.groups())
    benchmark.extra_info.update(lowering_ms=median_ms, first_lowering_ms=first_ms)
    assert " 0 problems" in output, output
    assert median_ms < LIMIT_MS


def test_preparing_a_step_of_one_gpu(benchmark: BenchmarkFixture) -> None:
    """Lowering, and copying the result into the buffer that goes to the device; CPU time."""
    bench_prepare = newest("bench_prepare")
    outputs: list[str] = []

    def run() -> None:
        result = subprocess.run([bench_prepare], capture_output=True, text=True, check=True)
        outputs.append(result.stdout)

    benchmark.pedantic(run, rounds=1)
    found = re.findall(r"(.+): lower ([\d.]+) ms, copy ([\d.]+) ms", outputs[0])
    times_ms = {name: float(lower) + float(copy) for name, lower, copy in found}
    benchmark.extra_info.update(prepare_ms=times_ms)
    assert times_ms["2048 sequences at 192"] < LIMIT_MS


def test_submitting_a_step_of_one_gpu(benchmark: BenchmarkFixture) -> None:
    """All that the host does for 2048 sequences but the calls of CUDA themselves; CPU time."""
    bench_submit = newest("bench_submit", under="cuda")
    outputs: list[str] = []

    def run() -> None:
        result = subprocess.run([bench_submit], capture_output=True, text=True, check=True)
        outputs.append(result.stdout)

    benchmark.pedantic(run, rounds=1)
    times_ms = dict(re.findall(r"(.+): submit ([\d.]+) ms", outputs[0]))
    benchmark.extra_info.update(submit_ms={name: float(ms) for name, ms in times_ms.items()})
    assert float(times_ms["after other work"]) < LIMIT_MS
