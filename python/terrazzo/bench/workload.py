"""Workloads: prompts of given lengths, each with the number of tokens that it gets."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

# Limits of the ShareGPT benchmarks of other engines, in tokens.
MIN_TOKENS = 4
MAX_PROMPT_TOKENS = 1024
MAX_TOTAL_TOKENS = 2048

Lengths = tuple[int, int]  # of a prompt and of its output, in tokens


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests in order of arrival; all arrive at once."""

    name: str
    seed: int
    prompts: list[NDArray[np.int32]]
    num_outputs: list[int]

    @property
    def num_prompt_tokens(self) -> int:
        return sum(map(len, self.prompts))

    @property
    def num_output_tokens(self) -> int:
        return sum(self.num_outputs)


def read_lengths(path: Path) -> list[Lengths]:
    """Rows of a CSV file with the columns prompt_tokens and output_tokens."""
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        if not rows.fieldnames or not {"prompt_tokens", "output_tokens"} <= set(rows.fieldnames):
            raise ValueError(f"[bench] {path}: expected columns prompt_tokens and output_tokens")
        try:
            return [(int(row["prompt_tokens"]), int(row["output_tokens"])) for row in rows]
        except (TypeError, ValueError) as error:
            raise ValueError(f"[bench] {path}, line {rows.line_num}: {error}") from error


def sample(rows: Sequence[Lengths], count: int, seed: int) -> list[Lengths]:
    """`count` rows at random: each at most once if there are so many, else with replacement."""
    if not rows:
        raise ValueError("[bench] expected at least one row to sample from")
    rng = random.Random(seed)
    return rng.sample(rows, count) if count <= len(rows) else rng.choices(rows, k=count)


def with_random_tokens(
    name: str, lengths: Sequence[Lengths], vocab_size: int, seed: int
) -> Workload:
    """Prompts of these lengths; their tokens are random, so that none begins like another."""
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(0, vocab_size, length, np.int32) for length, _ in lengths]
    return Workload(name, seed, prompts, [outputs for _, outputs in lengths])


def read_sharegpt(path: Path, encode: Callable[[str], list[int]]) -> list[tuple[list[int], int]]:
    """Prompts and output lengths of a ShareGPT JSON file: its first two turns, without those that
    the ShareGPT benchmarks leave out.
    """
    try:
        conversations = json.loads(path.read_text(encoding="utf-8"))
        turns = [entry["conversations"] for entry in conversations]
        pairs = [(turn[0]["value"], turn[1]["value"]) for turn in turns if len(turn) >= 2]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"[bench] {path}: expected a ShareGPT file: {error!r}") from error
    found = []
    for text, answer in pairs:
        prompt, num_outputs = encode(text), len(encode(answer))
        if (
            min(len(prompt), num_outputs) >= MIN_TOKENS
            and len(prompt) <= MAX_PROMPT_TOKENS
            and len(prompt) + num_outputs <= MAX_TOTAL_TOKENS
        ):
            found.append((prompt, num_outputs))
    return found


def with_texts(
    name: str, pairs: Sequence[tuple[list[int], int]], count: int, seed: int
) -> Workload:
    """`count` of the prompts of a ShareGPT file."""
    lengths = [(index, outputs) for index, (_, outputs) in enumerate(pairs)]
    chosen = sample(lengths, count, seed)
    prompts = [np.array(pairs[index][0], np.int32) for index, _ in chosen]
    return Workload(name, seed, prompts, [outputs for _, outputs in chosen])


def parse_grid(text: str) -> list[Lengths]:
    """Pairs such as `128/128,512/2048`."""
    pairs = []
    for part in text.split(","):
        numbers = part.strip().split("/")
        if len(numbers) != 2 or not all(number.isdigit() and int(number) for number in numbers):
            raise ValueError(f"[bench] {part!r}: expected IN/OUT, two positive numbers of tokens")
        pairs.append((int(numbers[0]), int(numbers[1])))
    return pairs
