"""Simulated steps of small models."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("terrazzo._core", reason="needs the compiled extension")

from terrazzo.costs import DeviceCosts, load_costs
from terrazzo.trace import StepTrace, simulated_trace
from terrazzo.trace.sources import programs_of
from terrazzo.trace.steps import limits_of, parse_step, shape_of, step_of

STEP = "70@100,1x150@0"
LAYERS = 4


@pytest.fixture(scope="session")
def costs() -> DeviceCosts:
    """Of no real device: tests hold whatever the package's files say."""
    return load_costs(str(Path(__file__).parent / "device.json"))


def simulated(costs: DeviceCosts, gpus: int, step: str = STEP, **options: object) -> StepTrace:
    batch = step_of(parse_step(step))
    shape = shape_of("llama-3.2-1b", gpus, LAYERS)
    programs = programs_of(shape, limits_of(batch), batch, 132, **options)
    return simulated_trace(programs, costs, f"a step on {gpus} GPUs")


@pytest.fixture(scope="session", params=[1, 2])
def trace(request: pytest.FixtureRequest, costs: DeviceCosts) -> StepTrace:
    return simulated(costs, request.param)
