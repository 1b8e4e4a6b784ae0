"""StepInput and StepOutput refuse arrays that contradict each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from terrazzo.step import StepInput, StepOutput


def arrays() -> dict[str, Any]:
    """Two sequences: a decode row at position 64, and a prompt of 3 rows; two logit rows."""
    return {
        "token_ids": np.array([5, 6, 7, -1], np.int32),
        "seq_lens": np.array([1, 3], np.int32),
        "context_lens": np.array([64, 0], np.int32),
        "page_indptr": np.array([0, 2, 3], np.int32),
        "page_ids": np.array([4, 2, 9], np.int32),
        "logit_rows": np.array([0, 3], np.int32),
        "temperature": np.array([0, 1], np.float32),
        "top_k": np.array([0, 5], np.int32),
        "top_p": np.array([1, 0.5], np.float32),
        "seed": np.array([0, 2**64 - 1], np.uint64),
        "output_position": np.array([3, 0], np.int32),
        "want_logits": np.array([True, False]),
    }


def test_sizes() -> None:
    batch = StepInput(**arrays())
    assert (batch.num_rows, batch.num_sequences, batch.num_logit_rows) == (4, 2, 2)


def test_a_step_may_sample_nothing() -> None:
    changes = {name: array[:0] for name, array in arrays().items() if len(array) == 2}
    kept = {"seq_lens", "context_lens"}
    values = arrays() | {name: array for name, array in changes.items() if name not in kept}
    assert StepInput(**values).num_logit_rows == 0


@pytest.mark.parametrize("name", list(arrays()))
def test_wrong_dtype(name: str) -> None:
    values = arrays()
    values[name] = values[name].astype(np.float64)
    with pytest.raises(ValueError, match=rf"\[StepInput\] {name}: expected contiguous"):
        StepInput(**values)


@pytest.mark.parametrize("name", list(arrays()))
def test_strided(name: str) -> None:
    values = arrays()
    values[name] = np.repeat(values[name], 2)[::2]
    with pytest.raises(ValueError, match=rf"\[StepInput\] {name}: .* got strided"):
        StepInput(**values)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("seq_lens", [1, 2], r"expected sum\(seq_lens\) = 4, got 3"),
        ("seq_lens", [4, 0], "expected seq_lens >= 1"),
        ("seq_lens", [1, 3, 1], r"context_lens: .*int32 \[3\]"),
        ("context_lens", [64, -1], "expected context_lens >= 0"),
        ("context_lens", [128, 0], "sequence 0: expected pages for 129 tokens, got 2"),
        ("context_lens", [64, 62], "sequence 1: expected pages for 65 tokens, got 1"),
        ("page_indptr", [1, 2, 3], "expected page_indptr to start at 0 and to ascend"),
        ("page_indptr", [0, 4, 3], "expected page_indptr to start at 0 and to ascend"),
        ("page_indptr", [0, 2, 4], r"expected page_indptr\[-1\] = 3, got 4"),
        ("page_ids", [4, -2, 9], "expected page_ids >= 0"),
        ("logit_rows", [0, 4], r"expected logit_rows ascending in \[0, 4\)"),
        ("logit_rows", [-1, 3], "expected logit_rows ascending"),
        ("logit_rows", [3, 3], "expected logit_rows ascending"),
        ("logit_rows", [3, 0], "expected logit_rows ascending"),
        ("temperature", [0, np.nan], "expected temperature finite and >= 0"),
        ("temperature", [0, np.inf], "expected temperature finite and >= 0"),
        ("temperature", [-1, 0], "expected temperature finite and >= 0"),
        ("top_k", [-1, 0], "expected top_k >= 0"),
        ("top_p", [0, 1], r"expected top_p in \(0, 1\]"),
        ("top_p", [1, 1.5], r"expected top_p in \(0, 1\]"),
        ("top_p", [1, np.nan], r"expected top_p in \(0, 1\]"),
        ("output_position", [-1, 0], "expected output_position >= 0"),
        ("want_logits", [True], r"want_logits: .* got contiguous bool \[1\]"),
    ],
)
def test_contradictions(name: str, value: list[Any], message: str) -> None:
    values = arrays()
    values[name] = np.array(value, values[name].dtype)
    with pytest.raises(ValueError, match=message):
        StepInput(**values)


def test_no_sequence() -> None:
    values = {name: array[:0] for name, array in arrays().items()}
    values["page_indptr"] = np.zeros(1, np.int32)
    with pytest.raises(ValueError, match="expected at least one sequence"):
        StepInput(**values)


def test_output() -> None:
    tokens, logprobs = np.zeros(2, np.int32), np.zeros(2, np.float32)
    StepOutput(tokens, logprobs, np.zeros((1, 9), np.float32))
    with pytest.raises(ValueError, match=r"\[StepOutput\] logprobs: expected .* \[2\]"):
        StepOutput(tokens, logprobs[:1], np.zeros((1, 9), np.float32))
    with pytest.raises(ValueError, match=r"logits: expected float32 \[rows, vocabulary\]"):
        StepOutput(tokens, logprobs, np.zeros(9, np.float32))
