"""Steps that are built from recorded ones, and the machine that has room for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unit.engine.fake_runner import FakeRunner

from terrazzo.bench.step_shapes import RecordedStep, Room, room_for
from terrazzo.bench.step_sum import read_recorded
from terrazzo.bench.steps import build_step, fill_pages
from terrazzo.bench.target import Target
from terrazzo.bench.throughput import measure_throughput
from terrazzo.bench.workload import with_random_tokens
from terrazzo.step import PAGE_TOKENS, StepInput


def pages_of(batch: StepInput) -> int:
    return int((-(-(batch.context_lens + batch.seq_lens) // PAGE_TOKENS)).sum())


def recorded(tokens: list[int], prompts: list[tuple[int, int]], logits: int = 1) -> RecordedStep:
    """Of sequences that decode with so many tokens each."""
    pages = sum(-(-each // PAGE_TOKENS) for each in tokens)
    return RecordedStep(len(tokens), sum(tokens), pages, logits, tuple(prompts))


@settings(deadline=None)
@given(
    tokens=st.lists(st.integers(1, 700), max_size=40),
    prompts=st.lists(st.tuples(st.integers(2, 300), st.integers(0, 700)), max_size=4),
)
def test_a_built_step_is_the_recorded_one_again(
    tokens: list[int], prompts: list[tuple[int, int]]
) -> None:
    """Rows, sequences, tokens and pages: so it has room where the recorded one had it."""
    if not tokens and not prompts:
        return
    step = recorded(tokens, prompts, logits=(len(tokens) + len(prompts)) // 2)
    room = step.room()
    assert room[:2] == (step.rows, len(tokens) + len(prompts))
    assert room.pages == step.pages + sum(-(-(r + c) // PAGE_TOKENS) for r, c in prompts)
    runner = FakeRunner(
        num_pages=room.pages,
        max_tokens=room.rows,
        max_sequences=room.sequences,
        max_model_len=room.tokens,
    )
    batch = build_step(runner, step)
    assert batch is not None
    assert RecordedStep.of(batch) == step
    assert pages_of(batch) == room.pages
    decodes = batch.context_lens[: len(tokens)]
    assert decodes.min(initial=0) >= 0
    assert np.ptp(decodes) <= PAGE_TOKENS + 1 if tokens else True


def test_sequences_just_over_a_page_and_a_full_machine() -> None:
    """257 tokens on average, half of which are a page less: rounding up would need 250 pages more
    than the recorded machine had.
    """
    step = recorded([193, 321] * 250, [])
    assert step.pages == 250 * (4 + 6)
    tokens = [1 + context for _, context in step.parts()]
    assert sum(-(-each // PAGE_TOKENS) for each in tokens) == 2500
    assert sum(tokens) == 500 * 257
    step = recorded([64, 320] * 250, [])
    assert step.pages == 1500
    assert step.room().pages == 1500


def test_every_step_of_a_tight_run_finds_room_again() -> None:
    """Prompts in chunks, preemptions, all sequences and nearly all pages in use."""
    runner = FakeRunner(num_pages=30, max_tokens=64, max_sequences=12, max_in_flight=2)
    lengths = [(5 + 17 * i % 150, 3 + 29 * i % 180) for i in range(60)]
    result = measure_throughput(runner, with_random_tokens("w", lengths, 64, 0))
    assert result.peak_kv_use > 0.9
    assert sum(result.shapes.values()) == len(runner.batches)
    assert max(step.room().sequences for step in result.shapes) == 12
    assert any(start for step in result.shapes for _, start in step.prompts)
    assert any(step.logits < step.room().sequences for step in result.shapes)
    seen = [RecordedStep.of(batch) for batch in runner.batches]
    again = FakeRunner(num_pages=30, max_tokens=64, max_sequences=12)
    for step in result.shapes:
        fill_pages(again)
        batch = build_step(again, step)
        assert batch is not None
        assert step in seen
        again.step(batch)


def test_the_room_for_steps() -> None:
    one, other = recorded([100] * 7, []), recorded([5], [(40, 0), (60, 500)])
    assert one.room() == Room(rows=7, sequences=7, pages=14, tokens=100)
    assert other.room() == Room(rows=101, sequences=3, pages=1 + 1 + 9, tokens=560)
    assert room_for([one, other]) == Room(rows=101, sequences=7, pages=14, tokens=560)


def test_a_target_becomes_large_enough() -> None:
    room = Room(rows=100, sequences=600, pages=50, tokens=90)
    target = Target(shape="tiny", max_batch_tokens=64, max_sequences=8, max_model_len=128)
    larger = target.with_room(room)
    sizes = (larger.max_batch_tokens, larger.max_sequences, larger.max_model_len, larger.kv_pages)
    assert sizes == (100, 600, 128, 50)
    # Where a recorded step had pages in common, it cannot have needed more than there were.
    assert target.with_room(room, most_pages=40).kv_pages == 40
    # Pages that were asked for stay.
    assert Target(shape="tiny", kv_pages=7).with_room(room, most_pages=40).kv_pages == 7


def test_columns_are_averages() -> None:
    columns = recorded([10, 21], [(4, 6), (8, 0)]).columns()
    assert columns == {
        "decodes": 2,
        "context": 15,
        "pages": 2,
        "prompts": 2,
        "prompt_rows": 12,
        "prompt_context": 5,  # (4 * 8.5 + 8 * 4.5) / 12
    }
    assert recorded([], [(3, 0)]).columns()["context"] == 0


def test_a_recorded_file_comes_back(tmp_path: Path) -> None:
    runner = FakeRunner()
    result = measure_throughput(runner, with_random_tokens("w", [(100, 5), (7, 9)], 64, 0))
    path = tmp_path / "t.json"
    path.write_text(json.dumps({"kv_pages": 64, "results": [result.record(None)] * 2}))
    counts, kv_pages = read_recorded(path)
    assert kv_pages == 64
    assert counts == {step: 2 * count for step, count in result.shapes.items()}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "expected a file of `bench throughput --json`"),
        ('{"results": 3}', "expected a file of `bench throughput --json`"),
        ('{"kv_pages": 3, "results": [{}]}', "expected a file of `bench throughput --json`"),
        (
            '{"kv_pages": 3, "results": [{"step_shapes": [[2, 1, 64, 0, 0]]}]}',
            "written by an older version, which rounded the shapes of steps; record the run again",
        ),
        ('{"kv_pages": 3, "results": []}', "expected a run of at least one step"),
    ],
)
def test_files_of_something_else(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_recorded(path)
