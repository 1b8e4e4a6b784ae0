"""A tokenizer of 64 tokens: an end token, letters, space, dot, and halves of characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

END = 0
SPACE = 27
DOT = 28
FIRST_HALF = 40  # two tokens from here on are one character; alone they are incomplete


class FakeTokenizer:
    """Keeps the protocols Decoder and ChatTokenizer."""

    def __init__(self, *, has_chat_template: bool = True) -> None:
        self.has_chat_template = has_chat_template

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        del add_special_tokens
        known = {" ": SPACE, **{chr(ord("a") + i): i + 1 for i in range(26)}}
        return [known.get(letter, DOT) for letter in text]

    def decode(self, ids: Sequence[int], /) -> str:
        text = ""
        half: int | None = None
        for token in ids:
            if half is not None and token >= FIRST_HALF:
                text += chr(0x4E00 + half * 64 + token)
                half = None
                continue
            text += "" if half is None else "\ufffd"
            half = token if token >= FIRST_HALF else None
            if END < token < SPACE:
                text += chr(ord("a") + token - 1)
            elif SPACE <= token < FIRST_HALF:
                text += " " if token == SPACE else "."
        return text if half is None else text + "\ufffd"

    def apply_chat_template(self, messages: Sequence[Mapping[str, object]]) -> str:
        return " ".join(f"{message['role']} {message['content']}" for message in messages) + "."
