"""Text that arrives in pieces is the text that arrives at once."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terrazzo.models.stream_decoder import StreamDecoder

SPECIAL = 256


def decode_bytes(ids: Sequence[int]) -> str:
    """A vocabulary of bytes with one special token that has no text."""
    return bytes(i for i in ids if i != SPECIAL).decode("utf-8", errors="replace")


@given(st.lists(st.integers(0, SPECIAL)))
def test_pieces_join_to_the_whole_even_where_bytes_are_no_text(ids: list[int]) -> None:
    decoder = StreamDecoder(decode_bytes)
    assert "".join([*map(decoder.push, ids), decoder.flush()]) == decode_bytes(ids)


@given(st.text())
def test_no_character_is_split(text: str) -> None:
    decoder = StreamDecoder(decode_bytes)
    pieces = [decoder.push(byte) for byte in text.encode()]
    ends = [char_end for char in text for char_end in [False] * (len(char.encode()) - 1) + [True]]
    shown = iter(text)
    for piece, is_end in zip(pieces, ends, strict=True):
        if piece:
            assert is_end
            assert all(char == next(shown) for char in piece)


def test_a_replacement_character_of_the_text_is_not_lost() -> None:
    decoder = StreamDecoder(decode_bytes)
    ids = list("a\ufffdb\ufffd".encode())
    assert "".join(map(decoder.push, ids)) == "a\ufffdb"
    assert decoder.flush() == "\ufffd"


def test_after_a_flush_a_new_text_begins() -> None:
    decoder = StreamDecoder(decode_bytes)
    assert decoder.push(0xE2) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.push(ord("x")) == "x"
    assert decoder.flush() == ""


def strip_first_space(ids: Sequence[int]) -> str:
    """As sentencepiece does: the space that begins a text is none of its own."""
    return decode_bytes(ids).removeprefix(" ")


@given(st.lists(st.sampled_from([*b" ab\xe2\x82\xac", SPECIAL])))
def test_a_decoder_that_strips_the_first_space_loses_no_other(ids: list[int]) -> None:
    decoder = StreamDecoder(strip_first_space)
    assert "".join([*map(decoder.push, ids), decoder.flush()]) == strip_first_space(ids)


@pytest.mark.parametrize("length", [50, 500])
def test_work_for_a_token_does_not_grow_with_the_text(length: int) -> None:
    longest = 0

    def decode(ids: Sequence[int]) -> str:
        nonlocal longest
        longest = max(longest, len(ids))
        return decode_bytes(ids)

    decoder = StreamDecoder(decode)
    for byte in ("é€" * length).encode():
        decoder.push(byte)
    assert longest <= 6  # the last character and the one that is coming
