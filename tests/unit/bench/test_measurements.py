"""What the benchmarks count and time, on a fake runner."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from unit.engine.fake_runner import FakeRunner

from terrazzo.bench import recording, steps
from terrazzo.bench.machine import describe, peak_flops
from terrazzo.bench.recording import RecordingRunner
from terrazzo.bench.report import line_chart, stacked_bars, table
from terrazzo.bench.step_shapes import RecordedStep, StepShape
from terrazzo.bench.steps import build_step, fill_pages, measure_step, sweep
from terrazzo.bench.target import Target
from terrazzo.bench.throughput import measure_throughput
from terrazzo.bench.workload import with_random_tokens
from terrazzo.step import StepInput, StepOutput, StepTicket

LENGTHS = [(5 + i, 3 + i % 7) for i in range(20)]


def test_throughput() -> None:
    runner = FakeRunner(max_in_flight=2)
    workload = with_random_tokens("w", LENGTHS, 64, 0)
    result = measure_throughput(runner, workload)
    num_prompt, num_output = sum(p for p, _ in LENGTHS), sum(o for _, o in LENGTHS)
    assert result.metrics.finished == 20
    assert result.metrics.generated_tokens == num_output
    row = result.row(peak_flops=None)
    assert row["requests"] == 20
    assert row["MFU"] is None
    assert result.total_tokens_per_s == pytest.approx((num_prompt + num_output) / result.seconds)
    assert 0 < result.peak_kv_use <= 1
    record = result.record(peak_flops=1e12)
    assert 0 < record["MFU"] < 1
    assert sum(count for count, *_ in record["recorded_steps"]) == len(runner.batches)
    assert set(record["ms_per_step"]) == {"plan", "submit", "wait", "commit", "text"}


def test_a_context_too_short_for_the_workload() -> None:
    workload = with_random_tokens("w", [(10, 40)], 64, 0)
    with pytest.raises(ValueError, match="the context of 30 tokens is too short"):
        measure_throughput(FakeRunner(max_model_len=30), workload)


STEP_SECONDS = 0.02


@dataclass
class Clock:
    """Time that passes only when somebody waits, so that a busy machine changes no result."""

    now: float = 0.0

    def read(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (recording, steps):
        monkeypatch.setattr(module, "perf_counter", clock.read)
    return clock


class SlowRunner(FakeRunner):
    """Takes STEP_SECONDS from the later of submission and the end of the step before."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(max_in_flight=2)
        self.clock = clock
        self.done = 0.0
        self.ends: list[float] = []
        fill_pages(self)

    def submit(self, batch: StepInput) -> StepTicket:
        self.done = max(self.done, self.clock.now) + STEP_SECONDS
        self.ends.append(self.done)
        return super().submit(batch)

    def collect(self, ticket: StepTicket) -> StepOutput:
        self.clock.now = max(self.clock.now, self.ends[ticket.number])
        return super().collect(ticket)


@pytest.mark.parametrize("pause", [0.0, 3 * STEP_SECONDS])
def test_busy_share(clock: Clock, pause: float) -> None:
    """A host that pauses for three steps between steps leaves the machine idle."""
    recorder = RecordingRunner(SlowRunner(clock))
    batch = build_step(recorder, StepShape(2, 10, 0, 0))
    assert batch is not None
    for _ in range(5):
        recorder.step(batch)
        clock.now += pause
    assert recorder.busy_share() == pytest.approx(1.0 if pause == 0 else 5 / 17)


@pytest.mark.parametrize(
    "shape",
    [
        StepShape(4, 100, 0, 0),
        StepShape(0, 0, 128, 64),
        StepShape(3, 20, 100, 50),
        StepShape(0, 0, 50, 300),
    ],
)
def test_a_step_has_the_shape_that_was_asked_for(shape: StepShape) -> None:
    runner = FakeRunner()
    batch = build_step(runner, shape)
    assert batch is not None
    seen = RecordedStep.of(batch).columns()
    assert (seen["decodes"], seen["context"], seen["prompt_rows"]) == shape[:3]
    assert abs(seen["prompt_context"] - shape.prompt_context) <= 1
    assert batch.num_logit_rows == batch.num_sequences
    fill_pages(runner)
    runner.step(batch)


def test_many_short_prompts_in_a_step() -> None:
    batch = build_step(FakeRunner(), StepShape(2, 10, 100, 10))
    assert batch is not None
    seen = RecordedStep.of(batch).columns()
    assert (seen["prompts"], seen["prompt_rows"]) == (5, 100)
    assert abs(seen["prompt_context"] - 10) <= 1
    assert len(batch.seq_lens) == 2 + 5


@pytest.mark.parametrize(
    "shape",
    [
        StepShape(17, 1, 0, 0),  # sequences
        StepShape(0, 0, 300, 150),  # rows
        StepShape(10, 600, 0, 0),  # pages
        StepShape(1, 1024, 0, 0),  # context
        StepShape(0, 0, 0, 0),
    ],
)
def test_a_step_that_does_not_fit(shape: StepShape) -> None:
    assert build_step(FakeRunner(), shape) is None
    assert measure_step(FakeRunner(), "decode", shape) is None


def test_sweep() -> None:
    shapes = list(sweep([1, 8], [64, 128], [32], max_sequences=8))
    assert [kind for kind, _ in shapes] == ["decode"] * 4 + ["prompt"] + ["mixed"] * 2
    assert shapes[-1] == ("mixed", StepShape(7, 128, 32, 16))
    assert [kind for kind, _ in sweep([1], [64], [32], max_sequences=1)] == ["decode", "prompt"]


def test_step_times(clock: Clock) -> None:
    runner = SlowRunner(clock)
    measured = measure_step(runner, "decode", StepShape(4, 10, 0, 0), repeats=3)
    assert measured is not None
    assert measured.seconds == pytest.approx(STEP_SECONDS)
    assert measured.alone_seconds == pytest.approx(STEP_SECONDS)
    assert measured.tokens_per_s == pytest.approx(4 / STEP_SECONDS)
    assert measured.row(1e9)["MFU"] > 0


def test_step_times_in_a_row_only(clock: Clock) -> None:
    runner = SlowRunner(clock)
    measured = measure_step(runner, "recorded", StepShape(4, 10, 0, 0), repeats=1, alone=False)
    assert measured is not None
    assert measured.seconds == pytest.approx(STEP_SECONDS)
    assert measured.row(None)["alone ms"] is None


def test_machine() -> None:
    facts = describe("host", 1)
    assert facts["device"].startswith("host: ")
    assert facts["numpy"] == np.__version__
    assert facts["command"].startswith("terrazzo")
    assert peak_flops("host", 1) is None


def test_table() -> None:
    rows = [{"name": "a", "n": 12345, "x": None}, {"name": "bb", "n": 1, "x": 0.12345}]
    assert table(rows).splitlines() == [
        "| name |      n |      x |",
        "|-----:|-------:|-------:|",
        "|    a | 12,345 |      - |",
        "|   bb |      1 | 0.1235 |",
    ]
    assert table([]) == ""


def test_pictures() -> None:
    chart = line_chart("a < b", "x", "y", {"one": [(1, 2.0), (8, 5.0)], "two": [(2, 1.0)]})
    root = ET.fromstring(chart)
    name = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{name}polyline")) == 2
    assert len(root.findall(f"{name}circle")) == 3
    assert "a < b" in [text.text for text in root.iter(f"{name}text")]
    bars = ET.fromstring(stacked_bars("t", "ms", {"a": {"p": 1.0, "q": 2.0}, "b": {"p": 3.0}}))
    heights = [float(rect.attrib["height"]) for rect in bars.findall(f"{name}rect")[1:4]]
    assert heights[1] == pytest.approx(2 * heights[0], abs=0.2)
    assert heights[2] == pytest.approx(3 * heights[0], abs=0.2)


def test_targets() -> None:
    with pytest.raises(ValueError, match="expected a model or a shape, got both"):
        Target(model="a", shape="8b")
    with pytest.raises(ValueError, match="shape 'x': expected one of 8b, 70b, tiny"):
        Target(shape="x")


def test_a_shape_on_the_host_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("terrazzo._core", reason="needs the compiled extension")
    monkeypatch.chdir(tmp_path)
    target = Target(shape="tiny", device="host", max_sequences=8, max_batch_tokens=64, num_sms=1)
    runner, tokenizer = target.open()
    assert tokenizer is None
    assert runner.num_pages == 8 * 32
    result = measure_throughput(runner, with_random_tokens("w", LENGTHS, 512, 0))
    assert result.metrics.finished == 20
