"""Text from tokens that arrive one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

_REPLACEMENT = "\ufffd"


class StreamDecoder:
    """Gives out text as soon as it is final; the pieces joined are the decoded whole.

    A character may span several tokens. Until its last byte has come it decodes to the replacement
    character, so that trailing replacement characters are held back.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        # The window begins one finished piece early: some decoders treat the first token
        # of a text differently (they strip its leading space).
        self._window: list[int] = []
        self._finished = 0  # tokens of the window whose text has been given out in full
        self._given = 0  # characters of the window's text that have been given out

    def push(self, token: int) -> str:
        """The text that this token makes final; often empty in the middle of a character."""
        self._window.append(token)
        text = self._decode(self._window)
        final = text.rstrip(_REPLACEMENT)
        piece = final[self._given :]
        self._given = max(self._given, len(final))
        if piece and len(final) == len(text):
            self._shrink()
        return piece

    def flush(self) -> str:
        """What is still held back when no more tokens come; then the decoder starts afresh."""
        piece = self._decode(self._window)[self._given :]
        self._window, self._finished, self._given = [], 0, 0
        return piece

    def _shrink(self) -> None:
        last = self._window[self._finished :]
        given = len(self._decode(last))
        if given:
            self._window = last
            self._given = given
        self._finished = len(self._window)
