"""What the engine leaves to the core, beside references in Python."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terrazzo._core import Error, gather_pages, held_tokens, page_keys
from terrazzo.step import PAGE_TOKENS

POISON = -7


@given(st.integers(0, 5), st.integers(0, PAGE_TOKENS - 1), st.booleans(), st.integers(0, 1000))
def test_page_keys_are_blake2b_of_the_page_salted_with_the_key_before(
    num_pages: int, rest: int, begins: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 2**31, num_pages * PAGE_TOKENS + rest).astype(np.int32)
    parent = b"" if begins else rng.bytes(16)
    expected, before = [], parent
    for page in tokens[: num_pages * PAGE_TOKENS].reshape(num_pages, PAGE_TOKENS):
        before = hashlib.blake2b(page.tobytes(), digest_size=16, salt=before).digest()
        expected.append(before)
    assert page_keys(tokens, parent) == expected


def test_page_keys_refuse_a_parent_that_is_no_key() -> None:
    with pytest.raises(Error, match="parent: expected 0 or 16 bytes, got 3"):
        page_keys(np.zeros(PAGE_TOKENS, np.int32), b"abc")


@given(st.integers(1, 40), st.integers(0, 30), st.integers(0, 1000))
def test_gather_pages(width: int, num_lists: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = rng.integers(0, 1000, (9, width)).astype(np.int32)
    rows = rng.integers(0, 9, num_lists)
    counts = rng.integers(0, width + 1, num_lists)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    band = 16
    page_ids = np.full(2 * band + indptr[-1], POISON, np.int32)
    gather_pages(page_ids[band : band + indptr[-1]], indptr, table, rows)
    expected = [table[row, :count] for row, count in zip(rows, counts, strict=True)]
    guard = np.full(band, POISON, np.int32)
    assert np.array_equal(page_ids, np.concatenate([guard, *expected, guard]))


@pytest.mark.parametrize(
    ("indptr", "rows", "size", "message"),
    [
        ([0, 1], [0, 0], 1, "expected 3 values of indptr, got 2"),
        ([0, 1], [2], 1, "expected rows below 2, got 2"),
        ([0, 1], [-1], 1, "expected rows below 2, got -1"),
        ([1, 2], [0], 2, "start at 0 and to ascend"),
        ([0, 2, 1], [0, 0], 1, "start at 0 and to ascend"),
        ([0, 5], [0], 5, "lists of at most 4 values, got one of 5"),
        ([0, 3], [0], 2, "expected room for 3 values, got 2"),
        ([0, 3], [0], 4, "expected room for 3 values, got 4"),
    ],
)
def test_gather_pages_refuses(indptr: list[int], rows: list[int], size: int, message: str) -> None:
    page_ids = np.full(size, POISON, np.int32)
    table = np.zeros((2, 4), np.int32)
    with pytest.raises(Error, match=message):
        gather_pages(page_ids, np.array(indptr, np.int32), table, np.array(rows, np.int64))
    assert (page_ids == POISON).all()


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(-2, 300)), max_size=20),
    st.integers(1, 40),
    st.integers(1, 30),
)
def test_held_tokens(sequences: list[tuple[int, int]], stride: int, num_points: int) -> None:
    """Who runs for another token is there until the first moment at which it has all of them."""
    expected = np.zeros(num_points)
    for tokens, most in sequences:
        strides = -(-most // stride)
        for i in range(num_points if most > 0 else 0):
            if i <= min(strides, num_points - 1):
                expected[i] += tokens + i * stride + 32.0
    tokens, most = np.array(sequences, np.int32).reshape(-1, 2).T.copy()
    assert np.array_equal(held_tokens(tokens, most, stride, num_points, 32.0), expected)


def test_held_tokens_refuses() -> None:
    two, three = np.zeros(2, np.int32), np.zeros(3, np.int32)
    with pytest.raises(Error, match="expected 2 values of most, got 3"):
        held_tokens(two, three, 16, 4, 0.0)
    with pytest.raises(Error, match="expected a stride and moments, got 0 and 4"):
        held_tokens(two, two, 0, 4, 0.0)
