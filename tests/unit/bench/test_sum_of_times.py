"""The sum of many steps' times, estimated from a sample of them."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from terrazzo.bench.step_shapes import RecordedStep
from terrazzo.bench.step_sum import draw, guess, substitutes, sum_of_times


def decode(n: int, tokens: int = 64) -> RecordedStep:
    return RecordedStep(n, n * tokens, n * -(-tokens // 64), n, ())


def prompt(rows: int) -> RecordedStep:
    return RecordedStep(0, 0, 0, 1, ((rows, 0),))


# Decode steps of many sizes, some of them often, and a few long prompts.
COUNTS = {decode(n, 40 + 7 * n % 300): 1 + n % 7 for n in range(1, 200)}
COUNTS |= {prompt(n): 3 for n in range(1000, 2000, 100)}
NOISE = random.Random(3)
SECONDS = {
    # Not linear in the numbers of a shape, and not quite a function of it.
    step: max(2e-3, 1e-3 + 1e-5 * step.rows) + 1e-6 * step.pages + NOISE.gauss(0, 1e-4)
    for step in COUNTS
}
NUM_STEPS = sum(COUNTS.values())
TOTAL = sum(SECONDS[step] * count for step, count in COUNTS.items())


def test_a_sample_of_everything_is_the_sum() -> None:
    drawn = draw(COUNTS, 10**6, seed=0)
    assert drawn == COUNTS
    total = sum_of_times(SECONDS, drawn, COUNTS)
    assert total.seconds == pytest.approx(TOTAL)
    assert total.standard_error == 0


@pytest.mark.parametrize("number", [20, 100])
def test_the_error_is_that_of_many_samples(number: int) -> None:
    """Over 400 seeds: no bias, and the estimates spread as their own errors say."""
    totals = [sum_of_times(SECONDS, draw(COUNTS, number, seed), COUNTS) for seed in range(400)]
    spread = statistics.stdev(total.seconds for total in totals)
    assert statistics.mean(total.seconds for total in totals) == pytest.approx(
        TOTAL, abs=4 * spread / 400**0.5
    )
    claimed = statistics.mean(total.standard_error**2 for total in totals) ** 0.5
    assert claimed == pytest.approx(spread, rel=0.2)  # of 400 values: 4%, tails are long


def test_a_guess_that_is_right_leaves_no_error() -> None:
    seconds = {step: 3e-5 * guess(step) for step in COUNTS}
    true = sum(seconds[step] * count for step, count in COUNTS.items())
    total = sum_of_times(seconds, draw(COUNTS, 20, 1), COUNTS)
    assert total.seconds == pytest.approx(true)
    assert total.standard_error < 1e-9 * true


def test_guesses() -> None:
    """Few rows take as long as some more; pages count, and rows where there are many."""
    assert guess(decode(1)) == pytest.approx(guess(decode(200)), rel=0.2)
    assert guess(decode(200, 64 * 64)) > 5 * guess(decode(200))
    assert guess(prompt(4000)) > 9 * guess(prompt(300))


def test_a_sample_repeats_and_prefers_long_steps() -> None:
    drawn = draw(COUNTS, 300, seed=5)
    assert drawn == draw(COUNTS, 300, seed=5) != draw(COUNTS, 300, seed=6)
    assert drawn.total() == 300
    prompts = sum(count for step, count in drawn.items() if step.prompts)
    assert prompts > 2 * 300 * 30 / NUM_STEPS


def test_a_sample_of_one_has_no_error_to_state() -> None:
    total = sum_of_times(SECONDS, draw(COUNTS, 1, 0), COUNTS)
    assert total.standard_error == math.inf


def test_steps_that_found_no_room_count_as_their_neighbours() -> None:
    seconds = {decode(10): 1.0, decode(100): 5.0}
    drawn = {decode(10): 1, decode(9): 1, decode(120): 2, decode(100): 1}
    assert substitutes(seconds, drawn) == {
        decode(9): pytest.approx(1.0),
        decode(120): pytest.approx(6.0),
    }
    with pytest.raises(ValueError, match="room for none of the recorded steps"):
        substitutes({}, drawn)
