"""The pages of the KV cache: free, in use by sequences, or kept for reuse."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..step import PAGE_TOKENS

ROOT_KEY = b""  # what the first page of a sequence is chained to
_KEY_BYTES = 16


def chain_keys(tokens: NDArray[np.int32], count: int, parent: bytes = ROOT_KEY) -> list[bytes]:
    """Keys of the first `count` full pages of `tokens`: 128-bit hashes, each of the key before it
    and of its page's 64 tokens. So equal keys mean equal tokens from the sequence's start.
    """
    keys = []
    data = tokens[: count * PAGE_TOKENS].tobytes()
    page_bytes = PAGE_TOKENS * tokens.itemsize
    for start in range(0, len(data), page_bytes):
        text = parent + data[start : start + page_bytes]
        parent = hashlib.blake2b(text, digest_size=_KEY_BYTES).digest()
        keys.append(parent)
    return keys


class PagePool:
    """Reference-counted pages, of which full ones can be found again by their key.

    A page without references is *free*. If it has a key it stays *cached*: it can be found until it
    is handed out anew, which happens to the least recently released of them, and only when no page
    without a key is free. The order depends on nothing but the calls, so runs repeat.
    """

    __slots__ = ("_cached", "_free", "_key_of", "_num_free", "_page_of", "_references", "evictions")

    def __init__(self, num_pages: int) -> None:
        if num_pages < 1:
            raise ValueError(f"[PagePool] num_pages: expected at least 1, got {num_pages}")
        self._free = np.arange(num_pages - 1, -1, -1, dtype=np.int32)  # a stack
        self._num_free = num_pages  # entries of the stack
        self._references = np.zeros(num_pages, np.int32)
        self._key_of: list[bytes | None] = [None] * num_pages
        self._page_of: dict[bytes, int] = {}
        self._cached: OrderedDict[int, None] = OrderedDict()  # least recently released first
        self.evictions = 0

    @property
    def num_pages(self) -> int:
        return len(self._references)

    @property
    def num_free(self) -> int:
        """Pages that `allocate` can hand out, cached ones included."""
        return self._num_free + len(self._cached)

    @property
    def num_cached(self) -> int:
        """Free pages that can still be found by their keys."""
        return len(self._cached)

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

    def num_kept(self, pages: Sequence[int]) -> int:
        """How many of the pages are free: taking them lowers `num_free` by so many."""
        return sum(page in self._cached for page in pages)

    def take(self, pages: Sequence[int]) -> None:
        """Add a reference to pages that `find` gave."""
        for page in pages:
            self._cached.pop(page, None)
        self._references[list(pages)] += 1

    def register(self, pages: Sequence[int], keys: Sequence[bytes]) -> None:
        """Let full pages that are in use be found by their keys, the first of `pages` by the first
        of `keys` and so on. A key that is known, or a page that has one, stays as it is.
        """
        key_of, page_of = self._key_of, self._page_of
        for page, key in zip(pages, keys, strict=False):
            if key_of[page] is None and key not in page_of:
                key_of[page] = key
                page_of[key] = page

    def release(self, pages: NDArray[np.int32]) -> None:
        """Drop a reference to each page, as often as it is listed: those of one sequence or of
        several, one after the other, each in order of their place in it.

        Pages that nobody refers to any more become free. Of a sequence's cached pages the last is
        evicted first, because without the pages before it it could not be found.
        """
        if not pages.size:
            return
        references = self._references
        is_wrong = bool(pages.min() < 0 or pages.max() >= self.num_pages)
        if not is_wrong:
            np.subtract.at(references, pages, 1)
            left = references[pages]
            if left.min() < 0:
                is_wrong = True
                np.add.at(references, pages, 1)
        if is_wrong:
            raise ValueError(f"[PagePool] release: expected pages in use, got {pages.tolist()}")
        unused = dict.fromkeys(pages[left == 0][::-1].tolist())  # each once, in order
        key_of, plain = self._key_of, []
        for page in unused:
            if key_of[page] is None:
                plain.append(page)
            else:
                self._cached[page] = None
        self._push(plain)

    def forget(self) -> None:
        """Drop all keys: nothing can be found any more."""
        self._push(list(self._cached))
        self._cached.clear()
        self._page_of.clear()
        self._key_of = [None] * self.num_pages

    def check(self, owned: Iterable[NDArray[np.int32]]) -> None:
        """Raise RuntimeError unless the references are those of the `owned` arrays, every other
        page is free exactly once, and keys and pages belong to each other.
        """
        uses = np.zeros(self.num_pages, np.int64)
        for pages in owned:
            np.add.at(uses, pages, 1)
        listed = [*self._free[: self._num_free].tolist(), *self._cached]
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
        if keys != self._page_of or any(self._key_of[page] is None for page in self._cached):
            raise RuntimeError("[PagePool] keys and pages do not belong to each other")

    def _evict(self, count: int) -> None:
        pages = []
        for _ in range(count):
            page, _ = self._cached.popitem(last=False)
            key = self._key_of[page]
            if key is not None:
                del self._page_of[key]
                self._key_of[page] = None
            pages.append(page)
        self.evictions += count
        self._push(pages[::-1])

    def _push(self, pages: list[int]) -> None:
        self._free[self._num_free : self._num_free + len(pages)] = pages
        self._num_free += len(pages)
