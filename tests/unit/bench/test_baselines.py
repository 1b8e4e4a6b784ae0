"""Benchmarks are compared with a baseline of the same device only, and fail when 5% slower."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pytest_benchmark", reason="needs pytest-benchmark")

BENCH = Path(__file__).parents[2] / "bench"

# A clock that moves on by the number in a file whenever it is read: a round takes so long.
TOY = """
from pathlib import Path
import pytest

now = 0.0

def clock():
    global now
    now += float(Path(__file__).with_name("seconds").read_text())
    return now

@pytest.mark.benchmark(timer=clock)
def test_toy(benchmark):
    benchmark.pedantic(lambda: None, rounds=5)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of benchmarks with the conftest of ours."""
    bench = tmp_path / "bench"
    bench.mkdir()
    for name in ("conftest.py", "gpu_info.py"):
        shutil.copy(BENCH / name, bench / name)
    (bench / "test_toy.py").write_text(TOY)
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = .\naddopts = -p no:cacheprovider")
    return bench


def run(folder: Path, seconds: float, option: str) -> tuple[int, str]:
    (folder / "seconds").write_text(str(seconds))
    command = [sys.executable, "-m", "pytest", "bench", "--import-mode=importlib", option]
    done = subprocess.run(
        command, cwd=folder.parent, capture_output=True, text=True, timeout=120, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_median_more_than_5_percent_slower_fails(folder: Path) -> None:
    code, output = run(folder, 1.0, "--benchmark-compare")
    assert code == 0, output
    assert "NOT COMPARED: no baseline of this device" in output
    assert "(there are none)" in output

    code, output = run(folder, 1.0, "--benchmark-save=first")
    assert code == 0, output
    (saved,) = (folder / "baselines").glob("*/*/*_first.json")

    code, output = run(folder, 1.04, "--benchmark-compare")
    assert code == 0, output
    assert "NOT COMPARED" not in output

    code, output = run(folder, 1.06, "--benchmark-compare")
    assert code != 0, output
    assert "Performance has regressed" in output

    # The same file, had it come from another machine.
    device = saved.parent.parent
    device.rename(device.with_name("another-device"))
    code, output = run(folder, 1.06, "--benchmark-compare")
    assert code == 0, output
    assert "NOT COMPARED: no baseline of this device" in output
    assert "(there are some of another-device)" in output
