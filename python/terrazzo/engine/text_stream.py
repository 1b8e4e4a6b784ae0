"""The text of one request, and where a stop string ends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..models.stream_decoder import StreamDecoder


class Decoder(Protocol):
    """The part of a tokenizer that the engine needs."""

    def decode(self, ids: Sequence[int], /) -> str:
        """Return the text of the ids, without special tokens."""


class TextStream:
    """Text that grows token by token and ends before the first stop string."""

    __slots__ = ("_decoder", "_num_released", "_stop", "has_ended", "text")

    def __init__(self, decoder: Decoder, stop: Sequence[str] = ()) -> None:
        self._decoder = StreamDecoder(decoder.decode)
        self._stop = tuple(stop)
        self._num_released = 0  # characters that release() has returned
        self.text = ""
        self.has_ended = False  # set by whoever feeds it

    def append(self, token_id: int) -> bool:
        """Add a token; True when a stop string is complete: `text` then ends before it."""
        return self._extend(self._decoder.push(token_id))

    def finish(self) -> bool:
        """Add what was held back as incomplete; True when that completes a stop string."""
        return self._extend(self._decoder.flush())

    def release(self, *, final: bool) -> str:
        """Return text not returned before; unless final, keep what may begin a stop string."""
        end = len(self.text) - (0 if final else self._possible_stop_len())
        released = self.text[self._num_released : end]
        self._num_released = max(self._num_released, end)
        return released

    def _extend(self, text: str) -> bool:
        start = len(self.text)
        self.text += text
        found = [
            at
            for stop in self._stop
            if (at := self.text.find(stop, max(0, start - len(stop) + 1))) >= 0
        ]
        if found:
            self.text = self.text[: min(found)]
        return bool(found)

    def _possible_stop_len(self) -> int:
        """Length of the longest end of the text that begins a stop string."""
        longest = max((len(stop) - 1 for stop in self._stop), default=0)
        for length in range(min(longest, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-length:]) for stop in self._stop):
                return length
        return 0
