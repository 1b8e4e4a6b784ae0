"""How long it takes to build the programs of a 4,096-token step of a 70B model on eight GPUs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

pytestmark = pytest.mark.t4_bench

ROOT = Path(__file__).parents[2]
EXECUTABLE = "tests/cpp/lower/bench_lower"
LIMIT_MS = 1.0  # a GPU


@pytest.fixture(scope="module")
def bench_lower() -> Path:
    """The newest one that was built with optimisation."""
    found = [
        folder / EXECUTABLE
        for folder in (ROOT / "build").glob("*")
        if (folder / EXECUTABLE).is_file()
        and "CMAKE_BUILD_TYPE:STRING=Release\n" in (folder / "CMakeCache.txt").read_text()
    ]
    if not found:
        pytest.skip(f"needs a Release build with {EXECUTABLE} under build/: run tools/test")
    return max(found, key=lambda path: path.stat().st_mtime)


def test_lowering(benchmark: BenchmarkFixture, bench_lower: Path) -> None:
    """The executable takes the median of 51 lowerings itself, in CPU time, and verifies one.

    Its first lowering also allocates the programs' memory, once in a process; it is noted here.
    """
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
