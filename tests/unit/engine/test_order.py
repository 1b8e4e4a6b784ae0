"""Steps in planned orders: the same bits as layer by layer, and sound programs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from unit.engine.random_checkpoint import RandomCheckpoint, small_config

pytest.importorskip("terrazzo._core", reason="needs the compiled extension")

from unit.model.devices import needs_gpu_speed

from terrazzo.bench.step_shapes import RecordedStep
from terrazzo.bench.steps import build_step, fill_pages
from terrazzo.cli.main import main
from terrazzo.costs import load_costs
from terrazzo.runner import ModelRunner, arrays_of
from terrazzo.step import StepInput

DEVICES = ("host", pytest.param("cuda", marks=[pytest.mark.t2_gpu, needs_gpu_speed]))
CONFIG = replace(small_config(), num_layers=4)
DECODES = RecordedStep(300, 300 * 150, 300 * 3, 300, ())
MIXED = RecordedStep(260, 260 * 150, 260 * 3, 261, ((70, 0), (40, 30)))
FEW = RecordedStep(20, 20 * 150, 20 * 3, 20, ())


@pytest.fixture(scope="module")
def costs(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A device with so little bandwidth that attention is worth hiding in this small a model."""
    known = load_costs("h100")
    values = dict(known.values)
    values["hbm_gbps"] *= 0.03
    values["l2_gbps"] *= 10
    values |= {"power_tflops": 0.0, "l2_per_hbm": 0.0}
    values |= {n: value / 10 for n, value in values.items() if n.endswith(".load_slot_ns")}
    path = tmp_path_factory.mktemp("costs") / "slow.json"
    path.write_text(replace(known, device="slow", values=values).to_json())
    return str(path)


def runner_of(
    order: str, costs: str = "h100", *, gpus: int = 1, device: str = "host"
) -> ModelRunner:
    return ModelRunner(
        RandomCheckpoint(CONFIG),
        order=order,
        order_costs=costs,
        device=device,
        gpus=gpus,
        ranks_per_gpu=gpus if device == "cuda" else 1,
        num_sms=4,
        max_model_len=256,
        num_pages=1000,
        max_batch_tokens=512,
        max_sequences=400,
    )


def step_of(runner: ModelRunner, step: RecordedStep) -> StepInput:
    batch = build_step(runner, step)
    assert batch is not None
    want = np.zeros(len(batch.want_logits), np.bool_)
    want[::50] = True
    return replace(batch, want_logits=want)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gpus", [1, 2])
def test_no_bit_depends_on_the_order(costs: str, device: str, gpus: int) -> None:
    plain = runner_of("layers", gpus=gpus, device=device)
    planned = runner_of("planned", costs, gpus=gpus, device=device)
    for runner in (plain, planned):
        fill_pages(runner)
    orders = []
    for shape in (DECODES, MIXED, FEW, DECODES):
        batch = step_of(plain, shape)
        assert plain.order_of(batch) == "plain"
        orders.append(planned.order_of(batch))
        expected, seen = plain.step(batch), planned.step(batch)
        assert (seen.tokens == expected.tokens).all()
        assert (seen.logprobs == expected.logprobs).all()
        assert (seen.logits == expected.logits).all()
    assert orders[0].startswith("1:")  # woven, split at the second row block
    assert orders[2] == "plain"  # nothing to split
    assert orders[3] == orders[0]


def test_a_planned_step_is_sound(costs: str) -> None:
    """To the verifier, and on the machine that checks each access."""
    from terrazzo._core import Lateness, StepOrder

    plain, runner = runner_of("layers"), runner_of("planned", costs)
    batch = step_of(runner, DECODES)
    assert runner.order_of(batch) != "plain"
    assert runner.verify(batch) == []
    for each in (plain, runner):
        fill_pages(each)
    order = StepOrder(runner.order_of(batch))
    checked = runner.core.step_checked(
        arrays_of(batch), seed=1, lateness=Lateness.RANDOM, order=order
    )
    assert (checked[0] == plain.step(batch).tokens).all()


def test_classes_of_steps_are_planned_once(costs: str) -> None:
    from terrazzo._core import OrderPlanner

    runner = runner_of("layers")
    model = load_costs(costs).model()
    planner = OrderPlanner(runner.core.shape, runner.core.limits, model, num_sms=4)
    assert planner.num_classes == 0
    first = planner.plan(arrays_of(step_of(runner, DECODES))).text
    alike = DECODES._replace(tokens=DECODES.tokens - 100)  # as many pages
    assert planner.plan(arrays_of(step_of(runner, alike))).text == first
    assert planner.num_classes == 1
    planner.plan(arrays_of(step_of(runner, FEW)))
    assert planner.num_classes == 2


def test_orders_by_name() -> None:
    from terrazzo._core import Error, StepOrder

    runner = runner_of("layers")
    arrays = arrays_of(step_of(runner, DECODES))
    assert StepOrder().text == "plain"
    assert StepOrder("1:80:80").text == "1:80:80"
    assert runner.core.verify(arrays, StepOrder("1:80:80")) == []
    with pytest.raises(Error, match="expected plain, or a split block and two curves"):
        StepOrder("1:80")
    with pytest.raises(Error):  # there is no block to split at
        runner.core.step(arrays, StepOrder("3:80:80"))


def test_bad_choices() -> None:
    with pytest.raises(ValueError, match="order='best': expected one of layers, planned"):
        runner_of("best")
    with pytest.raises(ValueError, match="expected a cost file or one of h100"):
        runner_of("planned", "h1")


def test_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--shape=tiny", "--device=host", "--sms=1", "--batches=2", "--chunks=4"]
    assert main(["bench", "steps", *options, "--order=planned", "--repeats=1"]) == 0
    assert "| decode |" in capsys.readouterr().out
    assert main(["bench", "steps", *options, "--order=best"]) == 2
    assert "invalid choice: 'best'" in capsys.readouterr().err
