"""The sum of many steps' times, estimated from a sample of them."""

from __future__ import annotations

import statistics

import pytest

from terrazzo.bench.recording import StepShape
from terrazzo.bench.steps import draw, sum_of_times

# Decode steps of many sizes, some of them often, and a few long prompts.
COUNTS = {StepShape(n, 64, 0, 0): 1 + n % 7 for n in range(1, 200)}
COUNTS |= {StepShape(0, 0, n, n // 2): 3 for n in range(1000, 2000, 100)}
SECONDS = {shape: 1e-3 + 1e-5 * shape.decodes + 1e-5 * shape.prompt_rows for shape in COUNTS}
NUM_STEPS = sum(COUNTS.values())
TOTAL = sum(SECONDS[shape] * count for shape, count in COUNTS.items())


def test_a_sample_of_everything_is_the_sum() -> None:
    drawn = draw(COUNTS, 10**6, seed=0)
    assert drawn == COUNTS
    total = sum_of_times(SECONDS, drawn, NUM_STEPS)
    assert total.seconds == pytest.approx(TOTAL)
    assert total.standard_error == 0


def test_the_error_is_that_of_many_samples() -> None:
    """Over 400 seeds: no bias, and the estimates spread as their own errors say."""
    totals = [sum_of_times(SECONDS, draw(COUNTS, 60, seed), NUM_STEPS) for seed in range(400)]
    spread = statistics.stdev(total.seconds for total in totals)
    assert statistics.mean(total.seconds for total in totals) == pytest.approx(
        TOTAL, abs=3 * spread / 400**0.5
    )
    claimed = statistics.mean(total.standard_error**2 for total in totals) ** 0.5
    assert claimed == pytest.approx(spread, rel=0.15)  # of 400 values: 4%, tails are long


def test_a_sample_repeats_and_holds_no_step_twice() -> None:
    drawn = draw(COUNTS, 300, seed=5)
    assert drawn == draw(COUNTS, 300, seed=5) != draw(COUNTS, 300, seed=6)
    assert drawn.total() == 300
    assert all(count <= COUNTS[shape] for shape, count in drawn.items())


def test_steps_without_a_time_count_as_none() -> None:
    """Those that the machine has no room for: the others' sum is estimated."""
    shape, other = StepShape(1, 64, 0, 0), StepShape(2, 64, 0, 0)
    total = sum_of_times({shape: 2.0}, {shape: 5, other: 5}, 20)
    assert total.seconds == pytest.approx(20.0)
