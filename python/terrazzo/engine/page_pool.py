"""The pages of the KV cache: free, in use by sequences, or kept for reuse."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from .._core import page_keys
from ..step import PAGE_TOKENS

ROOT_KEY = b""  # what the first page of a sequence is chained to


def chain_keys(tokens: NDArray[np.int32], count: int, parent: bytes = ROOT_KEY) -> list[bytes]:
    """Keys of the first `count` full pages of `tokens`: 128-bit hashes, each of the key before it
    and of its page's 64 tokens. So equal keys mean equal tokens from the sequence's start.
    """
    return page_keys(tokens[: count * PAGE_TOKENS], parent)


class PagePool:
    """Reference-counted pages, of which full ones can be found again by their key.

    A page without references is *free*. If it has a key it stays *cached*: it can be found until it
    is handed out anew, which happens to the least recently released of them, and only when no page
    without a key is free. The order depends on nothing but the calls, so runs repeat.
    """

    __slots__ = (
        "_first",
        "_free",
        "_has_key",
        "_key_of",
        "_last",
        "_num_cached",
        "_num_free",
        "_page_of",
        "_place",
        "_place_of",
        "_queue",
        "_references",
        "_uses_of",
        "evictions",
    )

    def __init__(self, num_pages: int) -> None:
        if num_pages < 1:
            raise ValueError(f"[PagePool] num_pages: expected at least 1, got {num_pages}")
        self._free = np.arange(num_pages - 1, -1, -1, dtype=np.int32)  # a stack
        self._num_free = num_pages  # entries of the stack
        self._references = np.zeros(num_pages, np.int32)
        self._key_of: list[bytes | None] = [None] * num_pages
        self._has_key = np.zeros(num_pages, np.bool_)
        self._page_of: dict[bytes, int] = {}
        # Cached pages, least recently released first: entries _first to _last of the queue, of
        # which those count whose page has that place. Whoever takes a page lets its entry lie.
        self._queue = np.zeros(2 * num_pages, np.int32)
        self._place = np.full(num_pages, -1, np.int64)
        self._first = self._last = 0
        # The same memory, for the few pages of a prompt: numbers one by one, without an array each.
        self._uses_of, self._place_of = self._references.data, self._place.data
        self._num_cached = 0
        self.evictions = 0

    @property
    def num_pages(self) -> int:
        return len(self._references)

    @property
    def num_free(self) -> int:
        """Pages that `allocate` can hand out, cached ones included."""
        return self._num_free + self._num_cached

    @property
    def num_cached(self) -> int:
        """Free pages that can still be found by their keys."""
        return self._num_cached

    def allocate(self, count: int) -> NDArray[np.int32]:
        """Take `count` pages; ask `num_free` first, as too few free pages are an error."""
        if not 0 <= count <= self.num_free:
            raise ValueError(
                f"[PagePool] allocate: expected at most {self.num_free} pages, got {count}"
            )
        if count > self._num_free:
            self._evict(count - self._num_free)
        pages: NDArray[np.int32] = self._free[self._num_free - count : self._num_free][::-1].copy()
        self._num_free -= count
        self._references[pages] = 1
        return pages

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """The pages of the longest run of keys, from the first on, that are known."""
        pages: list[int] = []
        for key in keys:
            page = self._page_of.get(key)
            if page is None:
                break
            pages.append(page)
        return pages

    def num_kept(self, pages: list[int]) -> int:
        """How many of the pages are free: taking them lowers `num_free` by so many."""
        place, count = self._place_of, 0
        for page in pages:
            count += place[page] >= 0
        return count

    def take(self, pages: list[int]) -> None:
        """Add a reference to pages that `find` gave."""
        place, uses = self._place_of, self._uses_of
        for page in pages:
            if place[page] >= 0:
                place[page] = -1
                self._num_cached -= 1
            uses[page] += 1

    def register(self, pages: Sequence[int], keys: Sequence[bytes]) -> None:
        """Let full pages that are in use be found by their keys, the first of `pages` by the first
        of `keys` and so on. A key that is known, or a page that has one, stays as it is.
        """
        key_of, page_of = self._key_of, self._page_of
        registered = []
        for page, key in zip(pages, keys, strict=False):
            if key_of[page] is None and key not in page_of:
                key_of[page] = key
                page_of[key] = page
                registered.append(page)
        self._has_key[registered] = True

    def release(self, pages: NDArray[np.int32]) -> None:
        """Drop a reference to each page, as often as it is listed: those of one sequence or of
        several, one after the other, each in order of their place in it.

        Pages that nobody refers to any more become free. Of a sequence's cached pages the last is
        evicted first, because without the pages before it it could not be found.
        """
        if not pages.size:
            return
        released = pages[::-1]  # the last page first
        if np.minimum.reduce(released) < 0 or np.maximum.reduce(released) >= self.num_pages:
            raise ValueError(f"[PagePool] release: expected pages in use, got {pages.tolist()}")
        np.subtract.at(self._references, released, 1)
        left = self._references[released]
        if np.minimum.reduce(left) < 0:
            np.add.at(self._references, released, 1)
            raise ValueError(f"[PagePool] release: expected pages in use, got {pages.tolist()}")
        # Each once, however often it is listed.
        freed = dict.fromkeys(released[left == 0].tolist())
        unused = np.fromiter(freed, np.int32, len(freed))
        has_key = self._has_key[unused]
        self._keep(unused[has_key])
        self._push(unused[~has_key])

    def forget(self) -> None:
        """Drop all keys: nothing can be found any more."""
        pages = self._kept()
        self._place[pages] = -1
        self._num_cached = 0
        self._push(pages)
        self._page_of.clear()
        self._key_of = [None] * self.num_pages
        self._has_key[:] = False

    def check(self, owned: Iterable[NDArray[np.int32]]) -> None:
        """Raise RuntimeError unless the references are those of the `owned` arrays, every other
        page is free exactly once, and keys and pages belong to each other.
        """
        uses = np.zeros(self.num_pages, np.int64)
        for pages in owned:
            np.add.at(uses, pages, 1)
        kept = self._kept()
        listed = [*self._free[: self._num_free].tolist(), *kept.tolist()]
        free = np.bincount(np.array(listed, np.int64), minlength=self.num_pages)
        wrong = np.flatnonzero((uses != self._references) | ((uses == 0) != (free == 1)))
        wrong = np.union1d(wrong, np.flatnonzero(free > 1))
        if wrong.size:
            page = int(wrong[0])
            raise RuntimeError(
                f"[PagePool] page {page}: free {free[page]} times, {self._references[page]} "
                f"references, in use by {uses[page]} sequences ({wrong.size} pages are wrong)"
            )
        keys = {key: page for page, key in enumerate(self._key_of) if key is not None}
        has_key = np.array([key is not None for key in self._key_of])
        if (
            keys != self._page_of
            or not has_key[kept].all()
            or not np.array_equal(has_key, self._has_key)
            or len(kept) != self._num_cached
        ):
            raise RuntimeError("[PagePool] keys and pages do not belong to each other")

    def _kept(self) -> NDArray[np.int32]:
        """Cached pages, least recently released first."""
        pages = self._queue[self._first : self._last]
        kept: NDArray[np.int32] = pages[self._place[pages] == np.arange(self._first, self._last)]
        return kept

    def _keep(self, pages: NDArray[np.int32]) -> None:
        if self._last + len(pages) > len(self._queue):
            kept = self._kept()
            self._first, self._last = 0, len(kept)
            self._queue[: len(kept)] = kept
            self._place[kept] = np.arange(len(kept))
        end = self._last + len(pages)
        self._queue[self._last : end] = pages
        self._place[pages] = np.arange(self._last, end)
        self._last = end
        self._num_cached += len(pages)

    def _evict(self, count: int) -> None:
        blocks = []
        missing = count
        while missing:
            end = min(self._first + missing, self._last)
            pages = self._queue[self._first : end]
            pages = pages[self._place[pages] == np.arange(self._first, end)]
            self._first = end
            missing -= len(pages)
            blocks.append(pages)
        evicted = np.concatenate(blocks)
        for page in evicted.tolist():
            key = self._key_of[page]
            if key is not None:
                del self._page_of[key]
                self._key_of[page] = None
        self._has_key[evicted] = False
        self._place[evicted] = -1
        self._num_cached -= count
        self.evictions += count
        self._push(evicted[::-1])

    def _push(self, pages: NDArray[np.int32]) -> None:
        self._free[self._num_free : self._num_free + len(pages)] = pages
        self._num_free += len(pages)
