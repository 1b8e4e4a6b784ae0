"""Hands out the pages of the KV cache."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


class BlockAllocator:
    """A pool of KV pages, each free or owned by one sequence; the page freed last goes out first.

    That order depends on nothing but the calls, so runs repeat.
    """

    __slots__ = ("_free", "_is_free")

    def __init__(self, num_pages: int) -> None:
        if num_pages < 1:
            raise ValueError(f"[BlockAllocator] num_pages: expected at least 1, got {num_pages}")
        self._free = list(range(num_pages - 1, -1, -1))
        self._is_free = np.ones(num_pages, np.bool_)

    @property
    def num_pages(self) -> int:
        return len(self._is_free)

    @property
    def num_free(self) -> int:
        return len(self._free)

    def allocate(self, count: int) -> NDArray[np.int32]:
        """Take `count` pages; ask `num_free` first, as too few free pages are an error."""
        if not 0 <= count <= len(self._free):
            raise ValueError(
                f"[BlockAllocator] allocate: expected at most {len(self._free)} pages, got {count}"
            )
        if count == 0:
            return np.empty(0, np.int32)
        pages = np.array(self._free[: -count - 1 : -1], np.int32)
        del self._free[-count:]
        self._is_free[pages] = False
        return pages

    def free(self, pages: NDArray[np.int32]) -> None:
        """Give pages back; a page that is free already, or listed twice, is an error."""
        if pages.size == 0:
            return
        in_pool = pages.min() >= 0 and pages.max() < self.num_pages
        if not in_pool or self._is_free[pages].any() or len(np.unique(pages)) != len(pages):
            raise ValueError(f"[BlockAllocator] free: expected owned pages, got {pages.tolist()}")
        self._is_free[pages] = True
        self._free.extend(pages[::-1].tolist())

    def check(self, owned: Iterable[NDArray[np.int32]]) -> None:
        """Raise RuntimeError unless every page is free or in exactly one of the `owned` arrays."""
        uses = np.zeros(self.num_pages, np.int64)
        for pages in owned:
            np.add.at(uses, pages, 1)
        free = np.bincount(np.array(self._free, np.int64), minlength=self.num_pages)
        wrong = np.flatnonzero((uses + free != 1) | (self._is_free != (free == 1)))
        if wrong.size:
            page = int(wrong[0])
            raise RuntimeError(
                f"[BlockAllocator] page {page}: in {free[page]} places of the free list and owned "
                f"by {uses[page]} sequences ({wrong.size} pages are wrong)"
            )
