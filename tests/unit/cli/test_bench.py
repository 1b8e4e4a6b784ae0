"""`terrazzo bench` from end to end, with the smallest shape on the host machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from terrazzo.cli import main

pytest.importorskip("terrazzo._core", reason="needs the compiled extension")

MACHINE = ["--shape=tiny", "--device=host", "--sms=1", "--max-sequences=8", "--kv-pages=64"]


def bench(folder: Path, kind: str, *options: str) -> tuple[Any, str]:
    """The JSON and the picture."""
    files = [f"--json={folder / 'out.json'}", f"--plot={folder / 'out.svg'}"]
    assert main(["bench", kind, *MACHINE, *files, *options]) == 0
    return json.loads((folder / "out.json").read_text()), (folder / "out.svg").read_text()


def test_throughput_then_its_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lengths = tmp_path / "lengths.csv"
    rows = "\n".join(f"{prompt},{5 + prompt % 7}" for prompt in range(4, 60))
    lengths.write_text(f"prompt_tokens,output_tokens\n{rows}\n")
    metrics = tmp_path / "metrics.prom"
    options = [f"--lengths={lengths}", "--requests=20", "--seed=3", f"--metrics={metrics}"]
    record, picture = bench(tmp_path, "throughput", *options)
    (result,) = record["results"]
    assert result["workload"] == "trace:20"
    assert result["seed"] == 3
    assert record["weights"] == "random"
    assert {"device", "driver_cuda", "terrazzo", "commit", "command"} <= set(record["machine"])
    assert "terrazzo_finished_total 20\n" in metrics.read_text()
    assert picture.startswith("<svg")
    assert "trace:20" in capsys.readouterr().out
    recorded = tmp_path / "throughput.json"
    (tmp_path / "out.json").rename(recorded)
    record, picture = bench(tmp_path, "steps", f"--shapes-of={recorded}", "--repeats=1")
    assert record["sum_of_steps_s"] > 0
    (note,) = record["notes"]
    assert note.startswith(f"{result['steps']} recorded steps take")
    assert note.endswith(f" s: all {len(record['results'])} shapes of them measured")
    assert record["steps_without_room"] == 0
    assert "sample" not in record
    everything = ["--repeats=1", f"--sample={result['steps']}"]
    record, _ = bench(tmp_path, "steps", f"--shapes-of={recorded}", *everything)
    assert "sample" not in record
    (note,) = record["notes"]
    assert note.endswith(f" s: all {len(record['results'])} shapes of them measured")
    options = [f"--shapes-of={recorded}", "--repeats=1", "--sample=5", "--seed=2"]
    record, _ = bench(tmp_path, "steps", *options)
    sample = record["sample"]
    assert (sample["steps"], sample["of"], sample["seed"]) == (5, result["steps"], 2)
    assert 1 <= len(record["results"]) <= 5
    assert record["sum_of_steps_s"] > 0
    assert sample["standard_error_s"] >= 0
    (note,) = record["notes"]
    assert note.startswith(f"{result['steps']} recorded steps take")
    assert "standard error" in note
    assert "5 drawn at random with replacement, long ones more often (seed 2)" in note


def test_a_machine_without_room_for_recorded_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says so, and the steps count all the same; without --kv-pages it would have been larger,
    as it is here in rows and sequences."""
    bench(tmp_path, "throughput", "--grid=60/30,4/3", "--requests=9", "--max-model-len=128")
    recorded = tmp_path / "t.json"
    (tmp_path / "out.json").rename(recorded)
    small = ["--max-batch-tokens=16", "--max-sequences=2", "--max-model-len=64"]
    options = [f"--shapes-of={recorded}", "--repeats=1", *small]
    record, _ = bench(tmp_path, "steps", *options)
    whole = record["sum_of_steps_s"]
    assert record["steps_without_room"] == 0
    assert record["max_sequences"] == 8
    capsys.readouterr()
    record, _ = bench(tmp_path, "steps", *options, "--kv-pages=8")
    assert (
        0
        < record["steps_without_room"]
        < sum(
            count
            for result in json.loads(recorded.read_text())["results"]
            for count, *_ in result["recorded_steps"]
        )
    )
    assert record["sum_of_steps_s"] > whole / 10
    total, warning = record["notes"]
    assert total.endswith("shapes of them measured but those below")
    assert warning.startswith("WARNING: the machine had no room for")
    assert "standard error" not in warning
    assert warning in capsys.readouterr().out
    record, _ = bench(tmp_path, "steps", *options, "--kv-pages=8", "--sample=9", "--seed=1")
    assert 0 < record["steps_without_room"] < 9
    warning = record["notes"][1]
    assert f"for {record['steps_without_room']} of these 9 steps" in warning
    assert warning.endswith("; the standard error leaves out what that is off by")


def test_grid(tmp_path: Path) -> None:
    options = ["--grid=8/4,16/2", "--requests=5", "--no-run-ahead", "--max-chunk=3"]
    record, _ = bench(tmp_path, "throughput", *options)
    names = [result["workload"] for result in record["results"]]
    assert names == ["8/4", "16/2"]
    assert [result["output_tokens"] for result in record["results"]] == [20, 10]


def test_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--batches=1,4,100", "--contexts=64", "--chunks=16,32", "--repeats=2"]
    record, picture = bench(tmp_path, "steps", *options)
    kinds = [result["kind"] for result in record["results"]]
    assert kinds == ["decode", "decode", "prompt", "prompt", "mixed", "mixed"]
    assert record["notes"] == ["left out, too large for the machine: decode (100, 64, 0, 0)"]
    assert picture.count("<polyline") == 3
    out = capsys.readouterr().out
    assert "too large for the machine" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--grid=8"], "expected IN/OUT"),
        (["--grid=8/4", "--requests=0"], "requests: expected at least 1"),
        (["--sharegpt=x.json"], "needs a model with a tokenizer"),
        (["--lengths=missing.csv"], "missing.csv"),
    ],
)
def test_bad_options(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "throughput", *MACHINE, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--sample=5"], "it needs --shapes-of"),
        (["--sample=1", "--shapes-of=x.json"], "sample: expected at least 2"),
    ],
)
def test_bad_samples(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "steps", *MACHINE, *options]) == 2
    assert message in capsys.readouterr().err


def test_a_shapes_file_of_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.json"
    path.write_text('{"results": 3}')
    assert main(["bench", "steps", *MACHINE, f"--shapes-of={path}"]) == 2
    assert "expected a file of `bench throughput --json`" in capsys.readouterr().err
