"""The sum of a run's steps' times, from the times of a sample of them."""

from __future__ import annotations

import json
import math
import random
import statistics
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from .step_shapes import RecordedStep

# A step with no more rows than this takes as long as one with so many: weights must be read.
FEWEST_ROWS = 200
# Pages that are read in the time of a row's products. Both numbers are those of Llamas on an H100.
PAGES_PER_ROW = 8


class SumOfTimes(NamedTuple):
    """Seconds of many steps one after the other, estimated from a sample of them."""

    seconds: float
    standard_error: float  # 0 if every step is in the sample


def read_recorded(path: Path) -> tuple[Counter[RecordedStep], int]:
    """How many steps of a throughput run were alike, and the KV pages of its machine."""
    counts: Counter[RecordedStep] = Counter()
    try:
        record = json.loads(path.read_text())
        is_old = any("step_shapes" in result for result in record["results"])
        kv_pages = int(record["kv_pages"])
        for result in () if is_old else record["results"]:
            for count, decodes, tokens, pages, logits, prompts in result["recorded_steps"]:
                parts = tuple((rows, start) for rows, start in prompts)
                counts[RecordedStep(decodes, tokens, pages, logits, parts)] += count
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: expected a file of `bench throughput --json`") from error
    if is_old:
        raise ValueError(
            f"{path}: written by an older version, which rounded the shapes of steps; record the "
            "run again"
        )
    if not counts:
        raise ValueError(f"{path}: expected a run of at least one step")
    return counts, kv_pages


def guess(step: RecordedStep) -> float:
    """About what a step takes, in no unit. A sum is estimated without bias whatever this says; the
    better it is, the smaller is the error."""
    return max(step.rows, FEWEST_ROWS) + step.pages / PAGES_PER_ROW


def draw(counts: Mapping[RecordedStep, int], number: int, seed: int) -> Counter[RecordedStep]:
    """A random sample of the counted steps, with replacement, long ones more often, as `guess`
    says; if there are no more steps than that, all of them."""
    if number >= sum(counts.values()):
        return Counter(counts)
    steps = sorted(counts)
    weights = [counts[step] * guess(step) for step in steps]
    return Counter(random.Random(seed).choices(steps, weights, k=number))


def substitutes(
    seconds: Mapping[RecordedStep, float], drawn: Mapping[RecordedStep, int]
) -> dict[RecordedStep, float]:
    """Guesses for drawn steps without a time: of the measured step whose rows are nearest, the
    time, and as much longer as there are more rows. ValueError if none was measured.
    """
    if not seconds:
        raise ValueError("[bench] the machine has room for none of the recorded steps")
    guesses = {}
    for step in drawn:
        if step not in seconds:
            near = min(seconds, key=lambda other: abs(other.rows - step.rows))
            guesses[step] = seconds[near] * max(1.0, step.rows / near.rows)
    return guesses


def sum_of_times(
    seconds: Mapping[RecordedStep, float],
    drawn: Counter[RecordedStep],
    counts: Mapping[RecordedStep, int],
) -> SumOfTimes:
    """What all counted steps take, of which some were drawn; `seconds` has each of these.

    Each draw is an estimate of its own: its time for each unit of its guess, times all guesses. The
    sum is their mean (Hansen and Hurwitz). Variation of one step's time is not in the error.
    """
    num_steps, number = sum(counts.values()), sum(drawn.values())
    if number >= num_steps:
        return SumOfTimes(sum(seconds[step] * count for step, count in counts.items()), 0.0)
    whole = sum(guess(step) * count for step, count in counts.items())
    totals = [seconds[step] / guess(step) * whole for step in drawn.elements()]
    error = statistics.stdev(totals) / math.sqrt(number) if number > 1 else math.inf
    return SumOfTimes(statistics.mean(totals), error)
