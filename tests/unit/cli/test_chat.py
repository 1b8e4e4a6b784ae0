"""`terrazzo chat` with piped input, on a fake model."""

from __future__ import annotations

import io

import pytest
from unit.cli.conftest import FakeModel
from unit.engine.fake_runner import reference_tokens
from unit.engine.fake_tokenizer import FakeTokenizer

from terrazzo.cli import main

TOKENIZER = FakeTokenizer()


def answer(messages: list[tuple[str, str]]) -> str:
    prompt = TOKENIZER.apply_chat_template([{"role": r, "content": c} for r, c in messages])
    return TOKENIZER.decode(reference_tokens(TOKENIZER.encode(prompt), 7))


def chat(monkeypatch: pytest.MonkeyPatch, text: str, *arguments: str) -> int:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    return main(["chat", "--max-tokens=7", "--ignore-eos", *arguments])


def test_the_chat_remembers(
    fake_model: FakeModel,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert chat(monkeypatch, "one\n\n two \n") == 0
    first = answer([("user", "one")])
    second = answer([("user", "one"), ("assistant", first), ("user", "two")])
    assert capsys.readouterr().out == f"{first}\n{second}\n"


def test_reset_and_exit(
    fake_model: FakeModel,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert chat(monkeypatch, "one\n/reset\ntwo\n/exit\nthree\n", "--system", "be brief") == 0
    system = ("system", "be brief")
    first, second = answer([system, ("user", "one")]), answer([system, ("user", "two")])
    assert capsys.readouterr().out == f"{first}\n{second}\n"


def test_an_unknown_command_is_named(
    fake_model: FakeModel,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert chat(monkeypatch, "/quit\none") == 0
    captured = capsys.readouterr()
    assert captured.out == answer([("user", "one")]) + "\n"
    assert "unknown command /quit: expected /reset or /exit" in captured.err


def test_a_question_that_does_not_fit_is_forgotten(
    fake_model: FakeModel,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert chat(monkeypatch, "x" * 2000 + "\none\n") == 0
    captured = capsys.readouterr()
    assert captured.out == answer([("user", "one")]) + "\n"
    (line,) = captured.err.splitlines()
    assert "the prompt has 2006 tokens" in line
    assert "(/reset begins afresh)" in line


def test_a_model_without_chat_template(
    fake_model: FakeModel,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_model.tokenizer.has_chat_template = False
    assert chat(monkeypatch, "one\n") == 2
    assert "no chat template; use `terrazzo generate --raw`" in capsys.readouterr().err
