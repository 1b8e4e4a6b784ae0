"""Benchmarks are compared with a baseline of the same device only, and fail when 5% slower."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pytest_benchmark", reason="needs pytest-benchmark")

from bench import baseline_files
from bench.baseline_files import device_folder, merged, python_folder, save

BENCH = Path(__file__).parents[2] / "bench"
RULES = ("conftest.py", "gpu_info.py", "baseline_files.py", "device_times.py")

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

# As the GPU's benchmarks: the clock sees what does not matter; 100 and 1 ms (times a factor) do.
DEVICE_TOY = """
import time
from pathlib import Path
import pytest
from bench.device_times import keep_times

@pytest.mark.t4_bench
def test_device(benchmark):
    factor = float(Path(__file__).with_name("seconds").read_text())
    benchmark.pedantic(lambda: time.sleep(0.001), rounds=1)
    keep_times(benchmark, {"large": [100.0, 101.0, 99.0], "small": [factor, 2 * factor, factor]})
    benchmark.extra_info.update(table="toy", ours_ms=[100.0])
"""


def make_folder(root: Path, **files: str) -> Path:
    """A folder of benchmarks with the rules of ours."""
    bench = root / "tests" / "bench"
    bench.mkdir(parents=True)
    for name in RULES:
        shutil.copy(BENCH / name, bench / name)
    for name, text in files.items():
        (bench / f"{name}.py").write_text(text)
    markers = "markers = t4_bench: a benchmark"
    (root / "pytest.ini").write_text(
        f"[pytest]\npythonpath = tests\naddopts = -p no:cacheprovider\n{markers}\n"
    )
    return bench


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path, test_toy=TOY)


def run(folder: Path, seconds: float, *options: str) -> tuple[int, str]:
    (folder / "seconds").write_text(str(seconds))
    command = [sys.executable, "-m", "pytest", "tests/bench", "--import-mode=importlib", *options]
    return finish(command, folder.parents[1])


def finish(command: list[str], cwd: Path, **environment: str) -> tuple[int, str]:
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_median_more_than_5_percent_slower_fails(folder: Path) -> None:
    code, output = run(folder, 1.0, "--benchmark-compare")
    assert code == 0, output
    assert "NOT COMPARED: no baseline of this device" in output
    assert "there are none" in output

    code, output = run(folder, 1.0, "--benchmark-save=first")
    assert code == 0, output
    (saved,) = (folder / "baselines").glob("*/*/*_first.json")
    assert "node" not in json.loads(saved.read_text())["machine_info"]

    code, output = run(folder, 1.04, "--benchmark-compare")
    assert code == 0, output
    assert "NOT COMPARED" not in output
    assert "1 of 1 benchmarks" in output

    code, output = run(folder, 1.06, "--benchmark-compare")
    assert code != 0, output
    assert "Performance has regressed" in output

    # A benchmark that came later.
    (folder / "test_new.py").write_text(TOY.replace("test_toy", "test_new"))
    code, output = run(folder, 1.0, "--benchmark-compare")
    assert code == 0, output
    assert "1 of 2 benchmarks" in output
    assert "NOT COMPARED: tests/bench/test_new.py::test_new is not in the baseline" in output

    # The same file, had it come from another Python, and from another machine.
    python = saved.parent
    other = python.rename(python.with_name("Linux-CPython-2.7-64bit"))
    code, output = run(folder, 1.06, "--benchmark-compare")
    assert code == 0, output
    assert "NOT COMPARED: no baseline of this device" in output
    device = other.parent
    device.rename(device.with_name("another-device"))
    code, output = run(folder, 1.06, "--benchmark-compare")
    assert code == 0, output
    assert "there are some of another-device (Linux-CPython-2.7-64bit)" in output


@pytest.mark.slow
def test_device_times_are_compared_each_for_itself(tmp_path: Path) -> None:
    """A part of 1% that takes 6% longer fails, and the clock around it all does not count."""
    folder = make_folder(tmp_path, test_device=DEVICE_TOY)
    code, output = run(folder, 1.0, "--benchmark-save=first")
    assert code == 0, output
    (saved,) = (folder / "baselines").glob("*/*/*_first.json")
    entries = {entry["name"]: entry for entry in json.loads(saved.read_text())["benchmarks"]}
    medians = {name: entry["stats"]["median"] for name, entry in entries.items()}
    assert medians == pytest.approx(
        {"test_device": 0.101, "test_device: large": 0.1, "test_device: small": 0.001}
    )
    assert [name for name, entry in entries.items() if entry["extra_info"]] == ["test_device"]

    code, output = run(folder, 1.04, "--benchmark-compare")
    assert code == 0, output
    code, output = run(folder, 1.06, "--benchmark-compare")
    assert code != 0, output
    (line,) = [
        line for line in output.splitlines() if "median:5%" in line or "PercentageReg" in line
    ]
    assert "test_device: small" in line


@pytest.mark.slow
def test_run_gpu_saves_and_compares(tmp_path: Path) -> None:
    """The script on toys in place of the GPU's benchmarks, with what it saved put in its place."""
    names = ("gemm", "attention", "steps")
    toys = {f"test_gpu_{n}": DEVICE_TOY.replace("test_device", f"test_{n}") for n in names}
    folder = make_folder(tmp_path, **toys)
    shutil.copy(BENCH / "run_gpu.sh", folder / "run_gpu.sh")
    (folder / "write_gpu_report.py").write_text("import sys\nprint('report of', *sys.argv[2:])\n")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    out = tmp_path / "out"

    def script(seconds: float, *options: str) -> tuple[int, str]:
        (folder / "seconds").write_text(str(seconds))
        return finish(["bash", str(folder / "run_gpu.sh"), *options], tmp_path, PATH=path)

    code, output = script(1.0, "--save", str(out), str(tmp_path / "page.md"))
    assert code == 0, output
    assert output.count("NOT COMPARED: no baseline of this device") == 3
    (saved,) = out.glob("baselines/*/*/0001_run.json")
    run_of_all = json.loads(saved.read_text())
    assert {entry["name"].split(":")[0] for entry in run_of_all["benchmarks"]} == {
        f"test_{n}" for n in names
    }
    assert not any("data" in entry["stats"] for entry in run_of_all["benchmarks"])

    shutil.copytree(out / "baselines", folder / "baselines", dirs_exist_ok=True)
    code, output = script(1.0, str(out), str(tmp_path / "page.md"))
    assert code == 0, output
    assert output.count("3 of 3 benchmarks") == 3
    assert "NOT COMPARED" not in output
    code, output = script(1.06, "--save", str(out), str(tmp_path / "page.md"))
    assert code != 0, output
    assert output.count("Performance has regressed:") == 3
    assert "report of" in output
    assert [path.name for path in out.glob("baselines/*/*/*")] == ["0002_run.json"]

    # A file that fails: its results would be missing in the baseline.
    (folder / "test_gpu_steps.py").write_text("def test_steps():\n    assert False\n")
    shutil.rmtree(out)
    code, output = script(1.0, "--save", str(out), str(tmp_path / "page.md"))
    assert code != 0, output
    assert "no baseline of 2 results of 3" in output
    assert list(out.glob("baselines/*/*/*")) == []


def result(*names: str, **where: str) -> dict[str, Any]:
    """A file of --benchmark-json with the parts that count."""
    machine = {"device": "NVIDIA H100 80GB HBM3", "commit": "0123456789ab"}
    machine |= {"python_folder": "Linux-CPython-3.12-64bit", **where}
    entries = [
        {
            "fullname": name,
            "extra_info": {"ours_ms": [1.0, 2.0]},
            "stats": {"median": 0.5, "data": [0.5, 0.4, 0.6]},
        }
        for name in names
    ]
    return {"machine_info": machine, "benchmarks": entries, "datetime": "2026-11-24T07:00:00"}


def test_results_of_a_run_become_one_small_file() -> None:
    whole = merged([result("a", "b"), result("c")])
    assert [entry["fullname"] for entry in whole["benchmarks"]] == ["a", "b", "c"]
    assert all(entry["stats"] == {"median": 0.5} for entry in whole["benchmarks"])
    assert all(entry["extra_info"] == {} for entry in whole["benchmarks"])


def test_results_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"results of different runs: .*0123456789ab.*fedcba"):
        merged([result("a"), result("b", commit="fedcba")])
    with pytest.raises(ValueError, match="different runs"):
        merged([result("a"), result("b", device="NVIDIA H200")])
    with pytest.raises(ValueError, match="results of the same benchmark: a"):
        merged([result("a", "b"), result("a")])


def test_a_baseline_gets_the_next_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind those that are kept, also where it is written to a folder of its own."""
    kept, new = tmp_path / "kept", tmp_path / "new"
    monkeypatch.setattr(baseline_files, "BASELINES", kept)
    place = Path("nvidia-h100-80gb-hbm3/Linux-CPython-3.12-64bit")
    assert save(result("a"), new) == new / place / "0001_run.json"
    assert save(result("a"), kept) == kept / place / "0001_run.json"
    assert save(result("a"), kept) == kept / place / "0002_run.json"
    assert save(result("a"), new) == new / place / "0003_run.json"
    assert save(result("a", device="NVIDIA H200"), kept).parts[-3:] == (
        "nvidia-h200",
        "Linux-CPython-3.12-64bit",
        "0001_run.json",
    )


def test_names_of_folders() -> None:
    from pytest_benchmark.utils import get_machine_id

    assert python_folder() == get_machine_id()
    assert device_folder("host: AMD EPYC (x), 2 cores") == "host-amd-epyc-x-2-cores"
