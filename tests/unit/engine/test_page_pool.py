"""Pages are counted, found again by what they hold, and every leak is seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from terrazzo.engine.page_pool import PagePool, chain_keys
from terrazzo.step import PAGE_TOKENS


def pages(*ids: int) -> NDArray[np.int32]:
    return np.array(ids, np.int32)


@given(
    st.integers(1, 30),
    st.lists(st.tuples(st.sampled_from("aark"), st.integers(0, 12)), max_size=80),
)
def test_every_page_is_free_or_counted(num_pages: int, calls: list[tuple[str, int]]) -> None:
    """Allocate, release, and share what is found by a key."""
    pool = PagePool(num_pages)
    owned: list[NDArray[np.int32]] = []
    for number_of_call, (call, number) in enumerate(calls):
        if call == "a" and number <= pool.num_free:
            owned.append(pool.allocate(number))
            pool.register(owned[-1][: number // 2].tolist(), [b"%d" % number_of_call] * 2)
        elif call == "r" and owned:
            pool.release(owned.pop(number % len(owned)))
        elif call == "k":
            found = pool.find([b"%d" % number])
            if found:
                pool.take(found)
                owned.append(np.array(found, np.int32))
        pool.check(owned)
        in_use = {page for block in owned for page in block.tolist()}
        assert pool.num_free == num_pages - len(in_use)
    for block in owned:
        pool.release(block)
    assert pool.num_free == num_pages
    pool.check([])
    assert sorted(pool.allocate(num_pages).tolist()) == list(range(num_pages))
    assert pool.num_cached == 0


def test_order_depends_on_the_calls_alone() -> None:
    first, second = PagePool(8), PagePool(8)
    for pool in (first, second):
        taken = pool.allocate(3)
        assert taken.tolist() == [0, 1, 2]
        pool.release(taken[1:])
    assert first.allocate(4).tolist() == second.allocate(4).tolist() == [1, 2, 3, 4]


def test_a_shared_page_is_free_when_all_have_released_it() -> None:
    pool = PagePool(2)
    block = pool.allocate(1)
    pool.register(block.tolist(), [b"key"])
    pool.take(pool.find([b"key", b"other"]))
    assert pool.num_kept(block.tolist()) == 0
    pool.release(block)
    assert pool.num_free == 1
    pool.release(block)
    assert (pool.num_free, pool.num_cached) == (2, 1)
    assert pool.num_kept(block.tolist()) == 1
    assert pool.find([b"key"]) == block.tolist()


def test_pages_of_several_sequences_at_once() -> None:
    pool = PagePool(4)
    first = pool.allocate(3)
    pool.register(first[:2].tolist(), [b"a", b"b"])
    pool.take(pool.find([b"a"]))
    pool.release(np.concatenate([first, first[:1]]))
    assert (pool.num_free, pool.num_cached) == (4, 2)
    pool.check([])


def test_the_least_recently_released_is_evicted_first() -> None:
    pool = PagePool(4)
    old, new = pool.allocate(2), pool.allocate(2)
    pool.register(old.tolist(), [b"a", b"b"])
    pool.register(new.tolist(), [b"c", b"d"])
    pool.release(old)
    pool.release(new)
    pool.allocate(1)
    assert pool.find([b"a", b"b"]) == [0], "the page behind the other one went first"
    pool.allocate(1)
    assert pool.find([b"a"]) == []
    assert pool.find([b"c", b"d"]) == new.tolist()
    assert pool.evictions == 2


def test_pages_without_a_key_go_first() -> None:
    pool = PagePool(3)
    block = pool.allocate(3)
    pool.register(block[:1].tolist(), [b"a"])
    pool.release(block)
    pool.allocate(2)
    assert pool.find([b"a"]) == [0]


def test_the_first_page_with_a_key_keeps_it() -> None:
    pool = PagePool(2)
    first, second = pool.allocate(1), pool.allocate(1)
    pool.register(first.tolist(), [b"a"])
    pool.register(second.tolist(), [b"a"])
    assert pool.find([b"a"]) == first.tolist()
    pool.release(second)
    assert pool.num_cached == 0
    pool.check([first])


def test_forget() -> None:
    pool = PagePool(3)
    kept, freed = pool.allocate(1), pool.allocate(1)
    pool.register([*kept.tolist(), *freed.tolist()], [b"a", b"b"])
    pool.release(freed)
    pool.forget()
    assert pool.find([b"a"]) == pool.find([b"b"]) == []
    pool.check([kept])
    assert (pool.num_free, pool.num_cached) == (2, 0)


def test_too_many() -> None:
    pool = PagePool(4)
    pool.allocate(3)
    with pytest.raises(ValueError, match="expected at most 1 pages, got 2"):
        pool.allocate(2)
    with pytest.raises(ValueError, match="got -1"):
        pool.allocate(-1)
    assert pool.num_free == 1


@pytest.mark.parametrize("wrong", [[3], [0, 0], [4], [-1], [0, 3], [1, 2, 1]])
def test_release_of_pages_that_are_not_in_use(wrong: list[int]) -> None:
    pool = PagePool(4)
    pool.allocate(3)
    with pytest.raises(ValueError, match="expected pages in use"):
        pool.release(pages(*wrong))
    pool.check([pages(0, 1, 2)])


@pytest.mark.parametrize("owned", [[], [pages(0), pages(0)], [pages(0, 1)]])
def test_check_finds_leaks_and_miscounts(owned: list[NDArray[np.int32]]) -> None:
    pool = PagePool(4)
    pool.allocate(1)
    with pytest.raises(RuntimeError, match=r"page [01]: free . times"):
        pool.check(owned)


def test_no_pages() -> None:
    with pytest.raises(ValueError, match="num_pages: expected at least 1, got 0"):
        PagePool(0)


def test_a_key_stands_for_all_tokens_up_to_its_page() -> None:
    tokens = np.arange(4 * PAGE_TOKENS, dtype=np.int32)
    keys = chain_keys(tokens, 4)
    assert len(set(keys)) == 4
    other = tokens.copy()
    other[PAGE_TOKENS] += 1
    changed = chain_keys(other, 4)
    assert [a == b for a, b in zip(keys, changed, strict=True)] == [True, False, False, False]
    assert chain_keys(tokens[2 * PAGE_TOKENS :], 2, keys[1]) == keys[2:]


def test_the_least_recently_released_page_goes_first_however_long_it_runs() -> None:
    """Pages that are found again and released anew, more often than there are pages: the order
    holds.
    """
    pool = PagePool(4)
    for key in (b"a", b"b", b"c", b"d"):
        page = pool.allocate(1)
        pool.register(page.tolist(), [key])
        pool.release(page)
    order = [b"a", b"b", b"c", b"d"]
    for turn in range(50):
        key = order.pop(turn * 7 % 4)
        found = pool.find([key])
        assert pool.num_kept(found) == 1
        pool.take(found)
        assert (pool.num_kept(found), pool.num_cached) == (0, 3)
        pool.release(np.array(found, np.int32))
        order.append(key)
        pool.check([])
    for evicted, key in enumerate(order):
        assert pool.find([key]) != []
        pool.allocate(1)
        assert pool.find([key]) == []
        assert (pool.evictions, pool.num_cached) == (evicted + 1, 3 - evicted)
