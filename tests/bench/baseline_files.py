"""Where baselines are kept, and how results become one.

python tests/bench/baseline_files.py [--into FOLDER] RESULT...

RESULT are files of --benchmark-json from one device and commit, on this machine or another. They
become one file FOLDER/<device>/<system and Python>/<number>_run.json, where `--benchmark-compare`
looks for it: FOLDER is tests/bench/baselines, or a folder that is to be copied there. One file,
because pytest-benchmark compares with the last one only.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

BASELINES = Path(__file__).parent / "baselines"


def device_folder(device: str) -> str:
    """A device's name as that of a folder."""
    return re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-").lower()


def python_folder() -> str:
    """How pytest-benchmark names this system and Python; it looks nowhere else."""
    version = ".".join(platform.python_version_tuple()[:2])
    names = (platform.system(), platform.python_implementation(), version)
    return "-".join([*names, platform.architecture()[0]])


def of_this_python(device: str) -> list[Path]:
    """Baselines of a device that a run with this Python is compared with."""
    return sorted((BASELINES / device_folder(device) / python_folder()).glob("*.json"))


def merged(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One result of several, without single samples and what else a comparison does not need.

    ValueError if they differ in device, commit, system or Python.
    """
    wheres = [_where(run) for run in runs]
    for other in wheres[1:]:
        if other != wheres[0]:
            raise ValueError(f"[baseline] results of different runs: {wheres[0]}, {other}")
    benchmarks = [_without_samples(entry) for run in runs for entry in run["benchmarks"]]
    names = [entry["fullname"] for entry in benchmarks]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"[baseline] results of the same benchmark: {', '.join(twice)}")
    return {**runs[0], "benchmarks": benchmarks}


def save(run: Mapping[str, Any], folder: Path, name: str = "run") -> Path:
    """Write a merged result behind the baselines of its device, those kept here included."""
    place = Path(device_folder(run["machine_info"]["device"]), run["machine_info"]["python_folder"])
    kept = [*(BASELINES / place).glob("[0-9]*_*.json"), *(folder / place).glob("[0-9]*_*.json")]
    number = 1 + max((int(path.name.split("_")[0]) for path in kept), default=0)
    path = folder / place / f"{number:04}_{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=1) + "\n")
    return path


def _where(run: Mapping[str, Any]) -> dict[str, str]:
    return {name: run["machine_info"][name] for name in ("device", "commit", "python_folder")}


def _without_samples(entry: Mapping[str, Any]) -> dict[str, Any]:
    stats = {name: value for name, value in entry["stats"].items() if name != "data"}
    return {**entry, "stats": stats, "extra_info": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep results as a baseline of their device.")
    parser.add_argument("--into", type=Path, default=BASELINES, help="instead of where they belong")
    parser.add_argument("results", type=Path, nargs="+", help="files that --benchmark-json wrote")
    arguments = parser.parse_args()
    runs = [json.loads(path.read_text()) for path in arguments.results]
    print(f"baseline: {save(merged(runs), arguments.into)}")


if __name__ == "__main__":
    main()
