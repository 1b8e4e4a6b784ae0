"""`terrazzo generate` on a fake model."""

from __future__ import annotations

import io

import pytest
from unit.cli.conftest import FakeModel
from unit.engine.fake_runner import reference_tokens
from unit.engine.fake_tokenizer import FakeTokenizer

from terrazzo.cli import main

TOKENIZER = FakeTokenizer()


def expected_text(prompt: str, count: int) -> str:
    return TOKENIZER.decode(reference_tokens(TOKENIZER.encode(prompt), count)) + "\n"


def test_the_chat_template_is_applied(
    fake_model: FakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["generate", "hi", "--max-tokens=9", "--ignore-eos"]) == 0
    captured = capsys.readouterr()
    assert captured.out == expected_text("user hi.", 9)
    assert captured.err == ""


def test_raw(fake_model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hi", "--raw", "--max-tokens=9", "--ignore-eos"]) == 0
    assert capsys.readouterr().out == expected_text("hi", 9)


def test_a_model_without_chat_template_continues_the_text(
    fake_model: FakeModel, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_model.tokenizer.has_chat_template = False
    assert main(["generate", "hi", "--max-tokens=9", "--ignore-eos"]) == 0
    assert capsys.readouterr().out == expected_text("hi", 9)


@pytest.mark.parametrize("arguments", [[], ["-"]])
def test_prompt_from_standard_input(
    fake_model: FakeModel,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe"))
    assert main(["generate", *arguments, "--raw", "--max-tokens=9", "--ignore-eos"]) == 0
    assert capsys.readouterr().out == expected_text("from a pipe", 9)


def test_sampling_options(fake_model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["generate", "hi", "--max-tokens=20", "--temperature=1", "--top-k=5", "--top-p=.9"]
    texts = []
    for seed in (1, 1, 2):
        assert main([*arguments, f"--seed={seed}"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    batch = fake_model.runner.batches[-1]
    assert (batch.top_k[0], batch.seed[0]) == (5, 2)
    assert batch.top_p[0] == pytest.approx(0.9)


def test_stop(fake_model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    whole = expected_text("hi", 30)
    arguments = ["generate", "hi", "--raw", "--max-tokens=30", "--ignore-eos"]
    assert main([*arguments, "--stop", whole[4:6]]) == 0
    assert capsys.readouterr().out == whole[: whole.index(whole[4:6])] + "\n"


def test_stats(fake_model: FakeModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hi", "--raw", "--max-tokens=9", "--ignore-eos", "--stats"]) == 0
    error = capsys.readouterr().err
    assert "prompt: 2 tokens" in error
    assert "output: 9 tokens, " in error


def test_model_options(fake_model: FakeModel) -> None:
    arguments = ["--model=x", "--gpus=2", "--sms=3", "--threads=4", "--kv-pages=5"]
    assert main(["generate", "hi", *arguments, "--max-model-len=6", "--device=host"]) == 0
    (options,) = fake_model.options
    assert (options.model, options.gpus, options.sms, options.threads) == ("x", 2, 3, 4)
    assert (options.kv_pages, options.max_model_len, options.device) == (5, 6, "host")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hi", "--temperature=nan"], "[SamplingParams] temperature = nan: expected 0 (greedy)"),
        (["hi", "--top-p=2"], "[SamplingParams] top_p = 2.0: expected a float32 in (0, 1]"),
        (["hi", "--max-tokens=0"], "[SamplingParams] max_tokens = 0: expected an integer in"),
        (["hi", "--seed=-1"], "[SamplingParams] seed = -1: expected an integer in"),
        (["hi", "--max-tokens=many"], "argument --max-tokens: invalid int value: 'many'"),
        (["hi", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["hi", "--device=tpu"], "argument --device: invalid choice: 'tpu'"),
        ([""], "empty prompt"),
        (["  \n"], "empty prompt"),
        (["x" * 3000], "the prompt has 3006 tokens, but the context of 2000 tokens"),
    ],
)
def test_user_errors(
    fake_model: FakeModel,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    assert main(["generate", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("terrazzo")
    assert message in line


def test_no_prompt_on_a_terminal(
    fake_model: FakeModel,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert main(["generate"]) == 2
    assert "no prompt: give it as an argument" in capsys.readouterr().err
