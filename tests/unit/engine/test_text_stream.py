"""Text comes out in pieces that never change, and ends before the first stop string."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from unit.engine.fake_tokenizer import FakeTokenizer

from terrazzo.engine import TextStream

TOKENIZER = FakeTokenizer()


def feed(stream: TextStream, ids: list[int]) -> tuple[list[str], bool]:
    """The released pieces, and whether a stop string was found."""
    pieces = []
    for token in ids:
        found = stream.append(token)
        pieces.append(stream.release(final=found))
        if found:
            return pieces, True
    found = stream.finish()
    return [*pieces, stream.release(final=True)], found


def text_before_stop(text: str, stop: list[str]) -> str:
    """The definition: the text up to where the first complete stop string begins."""
    for end in range(len(text) + 1):
        starts = [end - len(word) for word in stop if text[:end].endswith(word)]
        if starts:
            return text[: min(starts)]
    return text


ids_strategy = st.lists(st.integers(0, 63), max_size=40)
few_letters = st.lists(st.integers(1, 3), max_size=60)
stop_strategy = st.lists(st.text("abc", min_size=1, max_size=5), max_size=4)


@given(ids_strategy)
def test_pieces_join_to_the_decoded_whole(ids: list[int]) -> None:
    pieces, found = feed(TextStream(TOKENIZER), ids)
    assert not found
    assert "".join(pieces) == TOKENIZER.decode(ids)


@given(few_letters, stop_strategy)
def test_text_ends_before_a_stop_string(ids: list[int], stop: list[str]) -> None:
    whole = TOKENIZER.decode(ids)
    stream = TextStream(TOKENIZER, stop)
    pieces, found = feed(stream, ids)
    assert "".join(pieces) == stream.text == text_before_stop(whole, stop)
    assert found == any(word in whole for word in stop)


class WordDecoder:
    """Each token is a word, so that several stop strings may be complete at once."""

    WORDS = ("", "a", "ba", "abab", "bbaab", "cabcab")

    def decode(self, ids: Sequence[int], /) -> str:
        return "".join(self.WORDS[token] for token in ids)


@given(st.lists(st.integers(0, 5), max_size=12), stop_strategy)
def test_the_first_stop_string_counts(ids: list[int], stop: list[str]) -> None:
    texts = [WordDecoder().decode(ids[:count]) for count in range(len(ids) + 1)]
    expected = texts[-1]
    for text in texts:
        if any(word in text for word in stop):
            expected = text[: min(text.find(word) for word in stop if word in text)]
            break
    stream = TextStream(WordDecoder(), stop)
    pieces, _ = feed(stream, ids)
    assert "".join(pieces) == stream.text == expected


def test_what_may_begin_a_stop_string_is_held_back() -> None:
    stream = TextStream(TOKENIZER, ["abc"])
    pieces, found = feed(stream, TOKENIZER.encode("xabababc"))
    assert found
    assert pieces == ["x", "", "", "ab", "", "ab", "", ""]


def test_a_character_of_two_tokens_comes_out_whole() -> None:
    stream = TextStream(TOKENIZER)
    stream.append(50)
    assert stream.release(final=False) == ""
    stream.append(51)
    assert stream.release(final=False) == TOKENIZER.decode([50, 51])


@pytest.mark.parametrize("stop", ["\ufffd", "a\ufffd"])
def test_a_stop_string_may_be_completed_by_the_end(stop: str) -> None:
    stream = TextStream(TOKENIZER, [stop])
    _, found = feed(stream, [2, 1, 50])
    assert found
    assert stream.text == ("ba" if stop == "\ufffd" else "b")
