"""Cost files, and fitting them to traces."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from unit.trace.conftest import LAYERS, simulated

from terrazzo.costs import DeviceCosts, costs_on, known_devices, load_costs
from terrazzo.costs.fit import (
    SLOTS,
    STAGES,
    TENSOR_FLOPS,
    Sample,
    errors,
    fit,
    fit_kind,
    least_squares,
)
from terrazzo.trace import StepTrace
from terrazzo.trace.calibration import measured_steps, samples_of
from terrazzo.trace.record import Recipe
from terrazzo.trace.steps import shape_arguments

STEPS = ("300@200", "64@900", "1x512@0,30@64", "700@64")


@pytest.mark.parametrize(
    ("gpu", "expected"),
    [("NVIDIA H200", "h200"), ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA H300", "h100")],
)
def test_the_costs_of_a_gpu(
    gpu: str, expected: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("terrazzo._core.cuda_device", lambda: SimpleNamespace(name=gpu))
    caplog.set_level(logging.INFO, "terrazzo.costs")
    assert costs_on("cuda") == load_costs(expected)
    reasons = ["costs: of h100, as there are none of NVIDIA H300"]
    assert caplog.messages == (reasons if gpu == "NVIDIA H300" else [])


def test_the_costs_of_the_host_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is asked."""
    monkeypatch.delattr("terrazzo._core.cuda_device")
    assert costs_on("host") == load_costs("h100")


@pytest.mark.parametrize("name", known_devices())
def test_every_kind_has_a_cost(name: str) -> None:
    from terrazzo._core import kind_names

    costs = load_costs(name)
    assert costs.source
    for kind in kind_names():
        if kind not in ("", "step_end"):
            assert costs.values[f"{kind}.load_slot_ns"] > 0
            assert costs.values[f"{kind}.consume_slot_ns"] > 0 or (
                costs.values[f"{kind}.consume_ns_per_mflop"] > 0
            )


def test_a_cost_file_comes_back(costs: DeviceCosts) -> None:
    assert DeviceCosts.from_json(costs.to_json(), "again") == costs


def test_provisional_costs_say_so() -> None:
    costs = load_costs("h100")
    assert costs.calibrated or "uncalibrated" in costs.label


def test_bad_cost_files(costs: DeviceCosts) -> None:
    with pytest.raises(ValueError, match="expected a cost file or one of h100"):
        load_costs("h1")
    with pytest.raises(ValueError, match="expected JSON"):
        DeviceCosts.from_json("{", "x")
    document = json.loads(costs.to_json())
    del document["shared"]["hbm_gbps"]
    with pytest.raises(ValueError, match="expected a value for hbm_gbps"):
        DeviceCosts.from_json(json.dumps(document), "x")
    document["shared"]["hbm_gbps"] = -1
    with pytest.raises(ValueError, match="at least 0"):
        DeviceCosts.from_json(json.dumps(document), "x")
    document["shared"]["hbm_gbps"] = 1
    document["kinds"]["nonsense"] = {"load_slot_ns": 1}
    with pytest.raises(ValueError, match=r"unknown value nonsense\.load_slot_ns"):
        DeviceCosts.from_json(json.dumps(document), "x")
    document["format"] = 2
    with pytest.raises(ValueError, match="expected format 1, got 2"):
        DeviceCosts.from_json(json.dumps(document), "x")


def test_least_squares_finds_what_made_the_times() -> None:
    random = np.random.default_rng(1)
    columns = [random.uniform(1, 9, 50), random.uniform(1, 9, 50), np.ones(50)]
    times = 3 * columns[0] + 0 * columns[1] + 7
    assert least_squares(columns, times) == pytest.approx([3, 0, 7], abs=1e-9)
    # A negative coefficient would explain these best; none is allowed.
    found = least_squares(columns, 3 * columns[0] - 0.5 * columns[1] + 7)
    assert min(found) >= 0
    assert found[1] == 0


def test_kinds_whose_instructions_are_alike_are_fitted_too() -> None:
    work = np.tile(np.array([5, 1e9, 1e9, 194, 8, 0, 0, 0, 0, 0], float), (10, 1))
    sample = Sample("gate_up_silu", work, np.full(10, 194e2), np.full(10, 5e4), np.full(10, 800.0))
    values = fit_kind(sample)
    assert values["gate_up_silu.load_slot_ns"] == pytest.approx(100)
    assert values["gate_up_silu.consume_ns_per_mflop"] * 1e3 == pytest.approx(5e4)
    assert values["gate_up_silu.store_stage_ns"] * 8 == pytest.approx(800)


@pytest.fixture(scope="module")
def traces(costs: DeviceCosts) -> list[StepTrace]:
    """Steps of a device that is not the one the fit starts from."""
    values = dict(costs.values)
    values |= {name: value * 1.2 for name, value in values.items() if "gate_up_silu." in name}
    values |= {name: value * 0.8 for name, value in values.items() if "attend_" in name}
    values["hbm_gbps"] *= 0.8
    values["signal_ns"] *= 1.5
    device = DeviceCosts("other", "made up", True, values)
    shape = shape_arguments("llama-3.2-1b", 1, LAYERS)
    return [replace(simulated(device, 1, step), recipe=Recipe(shape, step, 132)) for step in STEPS]


def test_the_fit_explains_the_steps(traces: list[StepTrace], costs: DeviceCosts) -> None:
    steps = measured_steps(traces)
    before = np.abs(errors(costs, steps))
    fitted = fit(costs, samples_of(traces[:3]), steps[:3], device="other", source="a test")
    after = np.abs(errors(fitted, steps))
    assert before.max() > 0.05
    assert np.median(after) < 0.03
    assert after[3] < 0.06  # of a step that was not used
    assert fitted.calibrated
    # The columns of attention are nearly the same, so its values are not; what they add up to is,
    # but for instructions of an odd number of rows, where one consumer has more to do.
    (attend,) = (s for s in samples_of(traces[:3]) if s.kind == "attend_decode")
    assert consume_ns(fitted, attend) == pytest.approx(attend.consume_ns.sum(), rel=0.06)


def consume_ns(costs: DeviceCosts, sample: Sample) -> float:
    """What the consumers take for all instructions of a sample."""
    values, work = costs.values, sample.work
    per_row = (
        values[f"{sample.kind}.consume_ns_per_mflop"] * work[:, TENSOR_FLOPS] * 1e-6
        + values[f"{sample.kind}.consume_slot_ns"] * work[:, SLOTS]
        + values[f"{sample.kind}.consume_stage_ns"] * work[:, STAGES]
        + values[f"{sample.kind}.consume_fixed_ns"]
    )
    return float(per_row.sum())


def test_a_trace_without_a_recipe_is_no_measured_step(trace: StepTrace) -> None:
    with pytest.raises(ValueError, match="does not say what was run"):
        measured_steps([trace])
