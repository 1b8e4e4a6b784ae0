"""Pages are handed out once, come back once, and every leak is seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from terrazzo.engine import BlockAllocator


def pages(*ids: int) -> NDArray[np.int32]:
    return np.array(ids, np.int32)


@given(st.integers(1, 30), st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60))
def test_pages_have_one_owner(num_pages: int, calls: list[tuple[bool, int]]) -> None:
    allocator = BlockAllocator(num_pages)
    owned: list[NDArray[np.int32]] = []
    for takes, number in calls:
        if takes and number <= allocator.num_free:
            owned.append(allocator.allocate(number))
        elif not takes and owned:
            allocator.free(owned.pop(number % len(owned)))
        allocator.check(owned)
        assert allocator.num_free == num_pages - sum(map(len, owned))
    for block in owned:
        allocator.free(block)
    assert allocator.num_free == num_pages
    allocator.check([])
    assert sorted(allocator.allocate(num_pages).tolist()) == list(range(num_pages))


def test_order_depends_on_the_calls_alone() -> None:
    first, second = BlockAllocator(8), BlockAllocator(8)
    for allocator in (first, second):
        taken = allocator.allocate(3)
        assert taken.tolist() == [0, 1, 2]
        allocator.free(taken[1:])
    assert first.allocate(4).tolist() == second.allocate(4).tolist() == [1, 2, 3, 4]


def test_too_many() -> None:
    allocator = BlockAllocator(4)
    allocator.allocate(3)
    with pytest.raises(ValueError, match="expected at most 1 pages, got 2"):
        allocator.allocate(2)
    with pytest.raises(ValueError, match="got -1"):
        allocator.allocate(-1)
    assert allocator.num_free == 1


@pytest.mark.parametrize("wrong", [[3], [0, 0], [4], [-1], [0, 3]])
def test_free_of_pages_that_are_not_owned(wrong: list[int]) -> None:
    allocator = BlockAllocator(4)
    allocator.allocate(3)
    with pytest.raises(ValueError, match="expected owned pages"):
        allocator.free(pages(*wrong))
    allocator.check([pages(0, 1, 2)])


@pytest.mark.parametrize("owned", [[], [pages(0), pages(0)], [pages(0, 1)]])
def test_check_finds_leaks_and_shared_pages(owned: list[NDArray[np.int32]]) -> None:
    allocator = BlockAllocator(4)
    allocator.allocate(1)
    with pytest.raises(RuntimeError, match=r"page [01]: in . places of the free list"):
        allocator.check(owned)


def test_no_pages() -> None:
    with pytest.raises(ValueError, match="num_pages: expected at least 1, got 0"):
        BlockAllocator(0)
