"""A bar on the terminal for what takes a while."""

from __future__ import annotations


class ProgressBar:
    """A tqdm bar on standard error: always, never, or (None) only on a terminal."""

    def __init__(self, what: str, unit: str, shown: bool | None) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            desc=what, unit=unit, leave=False, disable=None if shown is None else not shown
        )

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update_to(self, done: int, total: int) -> None:
        self._bar.total = total
        self._bar.update(done - self._bar.n)
