"""Steps in planned orders: the same bits as layer by layer, and sound programs."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from unit.engine.random_checkpoint import RandomCheckpoint, small_config

pytest.importorskip("terrazzo._core", reason="needs the compiled extension")

from unit.model.devices import needs_gpu_speed

from terrazzo._core import Error, OrderPlanner
from terrazzo.bench.step_shapes import RecordedStep
from terrazzo.bench.steps import build_step, fill_pages
from terrazzo.cli.main import main
from terrazzo.costs import load_costs
from terrazzo.runner import ModelRunner, arrays_of
from terrazzo.step import StepInput
from terrazzo.trace.steps import limits_of, parse_step, shape_of
from terrazzo.trace.steps import step_of as step_of_counts

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
    order: str,
    costs: str | None = "h100",
    *,
    gpus: int = 1,
    device: str = "host",
    max_sequences: int = 400,
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
        max_sequences=max_sequences,
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


def test_by_default_costs_are_those_of_the_machine(
    costs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_machines = {"host": load_costs(costs)}
    monkeypatch.setattr("terrazzo.costs.costs_on", of_machines.__getitem__)
    orders = []
    for given in (None, "h100"):
        runner = runner_of("planned", given)
        orders.append(runner.order_of(step_of(runner, DECODES)))
    assert orders[0].startswith("1:")
    assert orders[1] == "plain"


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


def test_a_planner_at_work_holds_up_only_who_asks_it() -> None:
    """Not every thread of the interpreter, while one of them asks for the number of classes."""
    batch = step_of_counts(parse_step("1024@511"))
    shape = shape_of("llama-3.2-1b", 1, None)
    planner = OrderPlanner(shape, limits_of(batch), load_costs("h100").model(), num_sms=132)
    asks = threading.Event()
    end_s = 0.0

    def plan() -> None:
        nonlocal end_s
        planner.plan(arrays_of(batch))
        end_s = time.monotonic()

    def ask() -> None:
        asks.set()
        assert planner.num_classes == 1

    with ThreadPoolExecutor() as pool:
        begin_s = time.monotonic()
        work = [pool.submit(plan)]
        time.sleep(0.02)  # the planner has begun
        work.append(pool.submit(ask))
        asks.wait()
        time.sleep(0.02)  # the other thread waits for it
        awake_s = time.monotonic()
        for future in work:
            future.result()
    assert awake_s - begin_s < (end_s - begin_s) / 2


def test_errors_of_a_planner(costs: str) -> None:
    """A step beyond the limits, and costs that the simulator makes no progress with."""
    runner = runner_of("layers")
    shape, limits = runner.core.shape, runner.core.limits
    arrays = arrays_of(step_of(runner, DECODES))
    known = load_costs(costs)
    few = runner_of("layers", max_sequences=200).core.limits
    with pytest.raises(Error, match="sequences"):
        OrderPlanner(shape, few, known.model(), num_sms=4).plan(arrays)
    far = replace(known, values=known.values | {"signal_ns": known.values["signal_ns"] * 1e11})
    with pytest.raises(Error, match="no progress"):
        OrderPlanner(shape, limits, far.model(), num_sms=4).plan(arrays)


def test_orders_by_name() -> None:
    from terrazzo._core import StepOrder

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
