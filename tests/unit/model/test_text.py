"""The main job: text of the default model, from the library and from the command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from unit.model.devices import DEVICES

from terrazzo.llm import LLM
from terrazzo.sampling import SamplingParams

QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module", params=DEVICES)
def llm(request: pytest.FixtureRequest, smollm2_gguf: Path) -> LLM:
    return LLM(str(smollm2_gguf), device=request.param, max_model_len=1024, kv_pages=64)


@pytest.fixture(scope="module")
def offline(smollm2_gguf: Path) -> dict[str, str]:
    """An environment in which nothing can be fetched: only the cache has the default model."""
    proxies = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "TERRAZZO_MODEL")
    return {name: value for name, value in os.environ.items() if name not in proxies} | {
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "HF_HOME": str(smollm2_gguf.parent / "no-such-hub-cache"),
        "TERRAZZO_CACHE_DIR": str(smollm2_gguf.parent),
    }


def terrazzo(
    *arguments: str, environment: dict[str, str], stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "terrazzo", *arguments],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_question_is_answered(llm: LLM) -> None:
    output = llm.chat([{"role": "user", "content": QUESTION}], SamplingParams(max_tokens=32))
    assert "Paris" in output.text
    assert output.finish_reason == "stop"


def test_a_text_is_continued(llm: LLM) -> None:
    prompts = ["The capital of France is", "Monday, Tuesday, Wednesday, Thursday,"]
    paris, friday = llm.generate(prompts, SamplingParams(max_tokens=8))
    assert "Paris" in paris.text
    assert "Friday" in friday.text


def test_a_chat_remembers(llm: LLM) -> None:
    messages = [
        {"role": "user", "content": "My name is Ada. I live in Venice."},
        {"role": "assistant", "content": "Nice to meet you, Ada!"},
        {"role": "user", "content": "What is my name?"},
    ]
    assert "Ada" in llm.chat(messages, SamplingParams(max_tokens=32)).text


@pytest.mark.parametrize("device", DEVICES)
def test_the_command_answers_from_the_cache(offline: dict[str, str], device: str) -> None:
    arguments = ("generate", QUESTION, "--max-tokens=32", f"--device={device}")
    result = terrazzo(*arguments, environment=offline)
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout


def test_the_command_on_three_gpus(offline: dict[str, str]) -> None:
    arguments = ("generate", QUESTION, "--max-tokens=32", "--gpus=3", "--sms=1", "--threads=2")
    result = terrazzo(*arguments, environment=offline)
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout


def test_the_command_says_which_degrees_there_are(offline: dict[str, str]) -> None:
    result = terrazzo("generate", QUESTION, "--gpus=2", environment=offline)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "3 KV heads; possible: 1, 3" in result.stderr
    *notes, error = (
        result.stderr.splitlines()
    )  # the default model says first that it is a 4-bit copy
    assert error.startswith("terrazzo: error: ")
    assert all(note.startswith("terrazzo.models.default_model: ") for note in notes)


@pytest.mark.parametrize("device", DEVICES)
def test_the_chat_command(offline: dict[str, str], device: str) -> None:
    lines = f"{QUESTION}\nIn which country is that city?\n"
    arguments = ("chat", "--max-tokens=48", f"--device={device}")
    result = terrazzo(*arguments, environment=offline, stdin=lines)
    assert result.returncode == 0, result.stderr
    answers = result.stdout.splitlines()
    assert "Paris" in answers[0]
    assert "France" in " ".join(answers[1:])
