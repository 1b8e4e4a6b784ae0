"""Counts, times and flops of the engine, and how they are written down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from unit.engine.fake_runner import FakeRunner, tiny_config
from unit.engine.test_engine import drain
from unit.engine.test_fake_runner import step_of

from terrazzo.engine import Engine, EngineMetrics, progress_line, prometheus_text, write_prometheus
from terrazzo.engine.metrics import FlopCounter
from terrazzo.sampling import SamplingParams


@pytest.fixture
def metrics() -> EngineMetrics:
    engine = Engine(FakeRunner(max_in_flight=2), [])
    for _ in range(3):
        engine.add_request([1, 2, 3], SamplingParams(max_tokens=5))
    drain(engine)
    return engine.metrics()


def test_times(metrics: EngineMetrics) -> None:
    times = metrics.times
    parts = (times.plan, times.submit, times.wait, times.commit, times.text)
    assert all(part > 0 for part in parts)
    assert times.host == times.plan + times.commit
    assert times.elapsed <= sum(parts) * 100
    assert times.elapsed > times.submit


def test_flops_by_hand() -> None:
    """One layer, hidden 64, one head of 64, intermediate 64, vocabulary 64."""
    config = tiny_config(64)
    weights = 4 * 64 * 64 + 3 * 64 * 64  # q, k, v, o; gate, up, down
    batch = step_of([1, 2, 3], context=10, pages=[0])
    pairs = 11 + 12 + 13
    expected = 2 * weights * 3 + 4 * 64 * pairs + 2 * 64 * 64
    assert FlopCounter(config).of(batch) == expected
    two_layers = replace(config, num_layers=2)
    assert FlopCounter(two_layers).of(batch) == 2 * expected - 2 * 64 * 64


def test_mfu(metrics: EngineMetrics) -> None:
    assert metrics.model_flops > 0
    half = metrics.model_flops / metrics.times.elapsed * 2
    assert metrics.mfu(half) == pytest.approx(0.5)


def test_progress_line(metrics: EngineMetrics) -> None:
    before = replace(metrics, generated_tokens=5, computed_rows=metrics.computed_rows - 40)
    line = progress_line(metrics, before, 2.0)
    assert line == "3 done, 0 running, 0 waiting, 5 output tokens/s, 20 rows/s, KV 0%"
    line = progress_line(replace(metrics, preemptions=2), before, 2.0, peak_flops=1e12)
    assert "2 preemptions" in line
    assert "MFU 0.0%" in line


def test_prometheus(metrics: EngineMetrics, tmp_path: Path) -> None:
    text = prometheus_text(metrics, peak_flops=1e12)
    values = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, value = line.rsplit(" ", 1)
            values[name] = float(value)
    assert values["terrazzo_generated_tokens_total"] == 15
    assert values["terrazzo_running"] == 0
    assert values["terrazzo_num_pages"] == 64
    assert values['terrazzo_seconds_total{part="plan"}'] > 0
    assert 0 < values["terrazzo_mfu_ratio"] < 1
    assert "# TYPE terrazzo_generated_tokens_total counter" in text
    assert "# TYPE terrazzo_running gauge" in text
    path = tmp_path / "metrics.prom"
    write_prometheus(path, metrics)
    assert path.read_text() == prometheus_text(metrics)
    assert list(tmp_path.iterdir()) == [path]


def test_preempted_and_waiting() -> None:
    """Too many are admitted, as they look short; then some are preempted and wait again."""
    engine = Engine(FakeRunner(num_pages=4), [], expected_outputs=1.0)
    for _ in range(3):
        engine.add_request(np.full(60, 5), SamplingParams(max_tokens=120))
    for _ in range(80):
        engine.step()
    metrics = engine.metrics()
    assert metrics.preempted > 0
    assert metrics.preempted <= metrics.waiting
    assert metrics.running + metrics.waiting == 3
    assert metrics.kv_use > 0.7
    drain(engine)
    assert engine.metrics().preempted == 0
