"""Workloads are what the files say, drawn by a seed that is stated."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from terrazzo.bench.workload import (
    parse_grid,
    read_lengths,
    read_sharegpt,
    sample,
    with_random_tokens,
    with_texts,
)

ROWS = [(length, 2 * length) for length in range(4, 40)]


@pytest.fixture
def lengths_csv(tmp_path: Path) -> Path:
    path = tmp_path / "lengths.csv"
    lines = [f"{prompt},{output}" for prompt, output in ROWS]
    path.write_text("prompt_tokens,output_tokens\n" + "\n".join(lines) + "\n")
    return path


def test_lengths(lengths_csv: Path) -> None:
    assert read_lengths(lengths_csv) == ROWS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected columns prompt_tokens and output_tokens"),
        ("a,b\n1,2\n", "expected columns prompt_tokens and output_tokens"),
        ("prompt_tokens,output_tokens\n1,x\n", "line 2: invalid literal"),
        ("prompt_tokens,output_tokens\n1\n", "line 2"),
    ],
)
def test_bad_lengths(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_lengths(path)


def test_the_rule_of_sampling_is_fixed() -> None:
    assert sample(ROWS, 10, 3) == random.Random(3).sample(ROWS, 10)
    assert sample(ROWS, 100, 3) == random.Random(3).choices(ROWS, k=100)
    assert len(set(sample(ROWS, len(ROWS), 0))) == len(ROWS)
    with pytest.raises(ValueError, match="at least one row"):
        sample([], 1, 0)


def test_random_tokens() -> None:
    first, again, other = (with_random_tokens("w", ROWS, 50, seed) for seed in (1, 1, 2))
    assert [len(prompt) for prompt in first.prompts] == [prompt for prompt, _ in ROWS]
    assert first.num_outputs == [outputs for _, outputs in ROWS]
    assert first.num_output_tokens == 2 * first.num_prompt_tokens
    assert all((a == b).all() for a, b in zip(first.prompts, again.prompts, strict=True))
    assert any((a != b).any() for a, b in zip(first.prompts, other.prompts, strict=True))
    assert max(prompt.max() for prompt in first.prompts) < 50


def conversation(*lengths: int) -> dict[str, object]:
    return {"conversations": [{"from": "human", "value": "x" * length} for length in lengths]}


def test_sharegpt(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    kept = [(4, 4), (1024, 1024), (10, 2038)]
    left_out = [(3, 10), (10, 3), (1025, 10), (1000, 1049)]
    turns = [*kept, *left_out, (7,), (5, 6, 7)]
    path.write_text(json.dumps([conversation(*each) for each in turns]))
    pairs = read_sharegpt(path, lambda text: [1] * len(text))
    assert [(len(prompt), outputs) for prompt, outputs in pairs] == [*kept, (5, 6)]
    workload = with_texts("s", pairs, 9, seed=0)
    assert len(workload.prompts) == 9
    assert set(map(len, workload.prompts)) <= {4, 1024, 10, 5}
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match="expected a ShareGPT file"):
        read_sharegpt(path, lambda text: [1] * len(text))


def test_grid() -> None:
    assert parse_grid("128/128,512/2048") == [(128, 128), (512, 2048)]
    for bad in ("128", "1/2/3", "a/b", "0/5", ""):
        with pytest.raises(ValueError, match="expected IN/OUT"):
            parse_grid(bad)
