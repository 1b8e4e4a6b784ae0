"""Archives of measured steps: reading them, and fitting costs to them."""

from __future__ import annotations

import json
import tarfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from unit.trace.conftest import LAYERS

from terrazzo.cli.main import main
from terrazzo.costs import DeviceCosts, load_costs
from terrazzo.costs import fit_runs as fit_runs_module
from terrazzo.costs.fit_runs import TimedRun, fit_runs, run_errors
from terrazzo.trace.archive import (
    COLUMNS,
    Run,
    merge_warps,
    parse_events,
    read_archive,
    store_lags,
)
from terrazzo.trace.calibration import comparison_text, timed_runs
from terrazzo.trace.record import CONSUMER, EVENT, KIND, STAGES, STORER
from terrazzo.trace.sources import recorded_trace
from terrazzo.trace.steps import shape_arguments

SHAPE = shape_arguments("llama-3.2-1b", 1, LAYERS)
STEPS = ("300@200", "64@900", "1x512@0,30@64", "700@64")
KINDS = ("gate_up_silu", "down_residual", "attend_decode")


def measured(costs: DeviceCosts, step: str, kind: str = "", order: str = "plain") -> Run:
    """A launch on a device with these costs."""
    from terrazzo._core import simulate

    run = Run(SHAPE, step, 132, order, kind, 0.0)
    return replace(run, ms=simulate(run.programs(), costs.model())[0] * 1e-6)


def encoded(run: Run, events: NDArray[np.void]) -> bytes:
    """A file of events, as the benchmark writes it."""
    events = np.sort(events, order=["role", "position"])
    out = json.dumps(asdict(run)).encode() + b"\n"
    for name in COLUMNS:
        if name == "duration_ns":
            values = (events["end_ns"] - events["begin_ns"]).astype(np.int64)
        else:
            column = events[name].astype(np.int64)
            first = column[0] if name == "begin_ns" else 0
            values = np.diff(column, prepend=first)
        raw = values.astype(np.int32).view(np.uint32)
        for shift in (0, 8, 16, 24):
            out += (raw >> shift).astype(np.uint8).tobytes()
    return out


def simulated_events(costs: DeviceCosts, run: Run) -> NDArray[np.void]:
    from terrazzo._core import simulate

    _, _, raw = simulate(run.programs(), costs.model(), trace=True)
    return np.frombuffer(raw, EVENT)


@pytest.fixture(scope="module")
def other(costs: DeviceCosts) -> DeviceCosts:
    """A device that is not the one the fit starts from."""
    values = dict(costs.values)
    values |= {name: value * 1.6 for name, value in values.items() if "gate_up_silu." in name}
    values["hbm_gbps"] *= 0.75
    values["signal_ns"] *= 1.5
    return DeviceCosts("other", "made up", True, values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, other: DeviceCosts) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    (folder / "nothing").mkdir()
    parts = {
        "fit": [measured(other, step) for step in STEPS[:3]]
        + [measured(other, step, kind) for step in STEPS[:3] for kind in KINDS if "1x" not in step],
        "held": [measured(other, STEPS[3]), measured(other, STEPS[3], order="2:80:80")],
    }
    for part, runs in parts.items():
        (folder / part).mkdir()
        lines = [json.dumps(asdict(run)) + "\n" for run in runs]
        (folder / part / "runs.jsonl").write_text("".join(lines))
    run = parts["fit"][0]
    (folder / "fit" / "a.events").write_bytes(encoded(run, simulated_events(other, run)))
    return folder


def test_an_archive_is_a_folder_or_a_tar_file(folder: Path, tmp_path: Path) -> None:
    archive = read_archive(folder)
    assert [run.step for run in archive.runs["held"]] == [STEPS[3]] * 2
    assert archive.runs["fit"][3].kind == KINDS[0]
    packed = tmp_path / "archive.tar.xz"
    with tarfile.open(packed, "w:xz") as tar:
        tar.add(folder, ".")
    again = read_archive(packed)
    assert again.runs == archive.runs
    assert (again.events["fit"][0].events == archive.events["fit"][0].events).all()
    with pytest.raises(ValueError, match=r"expected runs\.jsonl"):
        read_archive(folder / "nothing")


def test_events_come_back(folder: Path, other: DeviceCosts) -> None:
    (recorded,) = read_archive(folder).events["fit"]
    expected = np.sort(simulated_events(other, recorded.run), order=["role", "position"])
    first = expected["begin_ns"].min()
    for name in ("role", "position", "layer", "opcode", "sm"):
        assert (recorded.events[name] == expected[name]).all()
    assert (recorded.events["begin_ns"] == expected["begin_ns"] - first).all()
    assert (recorded.events["end_ns"] == expected["end_ns"] - first).all()


def test_bad_files_are_refused() -> None:
    with pytest.raises(ValueError, match="expected a record of a launch"):
        Run.parse('{"step": "1@1"}', "x")
    with pytest.raises(ValueError, match="expected a line of JSON and 7 columns"):
        parse_events(b"{}\nabc", "x")


def test_warps_become_one_event() -> None:
    events = np.zeros(3, EVENT)
    events["role"] = CONSUMER
    events["position"] = [4, 4, 5]
    events["begin_ns"], events["end_ns"] = [20, 10, 30], [40, 25, 50]
    merged = merge_warps(events)
    assert merged["begin_ns"].tolist() == [10, 30]
    assert merged["end_ns"].tolist() == [40, 50]
    assert len(merge_warps(events[:0])) == 0


def test_store_lags_are_those_of_the_device(folder: Path, other: DeviceCosts) -> None:
    from terrazzo._core import kind_names

    lags = store_lags(read_archive(folder).events["fit"])
    model = other.model()
    fixed, stage = (model.get(f"gate_up_silu.store_{name}_ns") for name in ("fixed", "stage"))
    work = read_archive(folder).events["fit"][0].run.programs().work(0)
    kind = kind_names().index("gate_up_silu")
    stages = float(np.median(work[work[:, KIND] == kind, STAGES]))
    assert lags["gate_up_silu"] == pytest.approx(
        model.get("store_latency_ns") + fixed + stages * stage, abs=5
    )


def test_the_fit_explains_the_runs(folder: Path, costs: DeviceCosts) -> None:
    archive = read_archive(folder)
    fit = timed_runs(archive.runs["fit"])
    steps = [run for run in fit if not run.opcode]
    before = np.abs(run_errors(costs, steps))
    assert before.max() > 0.06
    progress: list[str] = []
    values = fit_runs(costs, fit, rounds=4, progress=progress.append)
    assert len(progress) == 4
    fitted = replace(costs, values=values)
    assert np.abs(run_errors(fitted, steps, exact=True)).max() < before.max() / 2
    # What no run has stays: contexts are too short to be split.
    assert values["attend_merge.load_slot_ns"] == costs.values["attend_merge.load_slot_ns"]


def test_a_candidate_that_the_simulator_cannot_run_is_not_taken(
    folder: Path, costs: DeviceCosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps of the search grow, here from the start: with such times the simulator gives up."""
    from terrazzo._core import Error

    runs = timed_runs(read_archive(folder).runs["fit"])[:1]
    far = costs.values | {"signal_ns": costs.values["signal_ns"] * float(np.exp(25))}
    with pytest.raises(Error, match="no progress"):
        run_errors(replace(costs, values=far), runs)
    monkeypatch.setattr(fit_runs_module, "FIRST_STEP", 25.0)
    values = fit_runs(costs, runs, rounds=1)
    assert values["signal_ns"] <= costs.values["signal_ns"]
    assert np.isfinite(run_errors(replace(costs, values=values), runs)).all()


def test_start_values_that_the_simulator_cannot_run(folder: Path, costs: DeviceCosts) -> None:
    runs = timed_runs(read_archive(folder).runs["fit"])[:1]
    far = costs.values | {"signal_ns": costs.values["signal_ns"] * float(np.exp(25))}
    with pytest.raises(ValueError, match="expected start values with which every run"):
        fit_runs(replace(costs, values=far), runs)


def test_other_errors_of_the_simulator_end_the_fit(
    folder: Path, costs: DeviceCosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    from terrazzo._core import Error

    runs = timed_runs(read_archive(folder).runs["fit"])[:1]

    def fail(*arguments: object, **options: object) -> None:
        raise Error("[simulate] a wait is never met")

    monkeypatch.setattr(fit_runs_module, "run_errors", fail)
    with pytest.raises(Error, match="never met"):
        fit_runs(costs, runs, rounds=1)


def test_orders_are_ranked(folder: Path, other: DeviceCosts) -> None:
    text = comparison_text(read_archive(folder), other)
    assert "held: 2 steps, median error 0.0%, worst 0.0%" in text
    assert "1 of 1 pairs ranked right" in text


def test_calibrate_writes_a_cost_file(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "other.json"
    arguments = ["calibrate", str(folder), "--out", str(out), "--rounds", "1"]
    assert main([*arguments, "--device", "Other", "--source", "driver 1"]) == 0
    fitted = load_costs(str(out))
    assert fitted.device == "Other"
    assert fitted.calibrated
    assert fitted.source.endswith("driver 1")
    assert "held: 2 steps" in capsys.readouterr().out


def test_a_recorded_launch_is_shown(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = folder / "fit" / "a.events"
    assert main(["trace", "--recorded", str(events), "--out", str(tmp_path)]) == 0
    assert "gate_up_silu" in capsys.readouterr().out
    assert (tmp_path / "picture.svg").read_text().startswith("<svg")


def test_waits_of_a_recorded_launch_are_what_was_missing(folder: Path, costs: DeviceCosts) -> None:
    (recorded,) = read_archive(folder).events["fit"]
    recorded.events["waited_ns"] = 0
    trace = recorded_trace(recorded, costs)
    assert trace.events["waited_ns"][trace.events["role"] == STORER].any()
    late = replace(recorded, events=recorded.events[recorded.events["position"] < 50])
    with pytest.raises(ValueError, match="recorded by a version that lowers differently"):
        recorded_trace(late, costs)


def test_a_timed_run_knows_its_programs() -> None:
    run = Run(SHAPE, "64@100", 132, "plain", "lm_head", 1.0)
    (timed,) = timed_runs([run])
    assert isinstance(timed, TimedRun)
    assert timed.ns == 1e6
    prologue, body, epilogue = timed.programs.sizes(0)
    assert (prologue, body) == (0, 0)
    assert epilogue > 1
