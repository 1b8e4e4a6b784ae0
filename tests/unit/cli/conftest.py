"""The command line on a fake model."""

from __future__ import annotations

import argparse

import pytest
from unit.engine.fake_runner import FakeRunner
from unit.engine.fake_tokenizer import END, FakeTokenizer

from terrazzo.cli import batch, chat, generate, verify
from terrazzo.llm import LLM
from terrazzo.step import StepInput


class VerifyingRunner(FakeRunner):
    """Finds the problems that a test puts into `problems`, and keeps the steps."""

    def __init__(self) -> None:
        super().__init__(num_pages=300, max_tokens=512, max_sequences=64, max_model_len=2000)
        self.problems: list[str] = []
        self.verified: list[StepInput] = []

    def verify(self, batch: StepInput) -> list[str]:
        self.verified.append(batch)
        return self.problems


class FakeModel:
    """What `open_llm` gives to the commands, and the options that it was asked with."""

    def __init__(self) -> None:
        self.runner = VerifyingRunner()
        self.tokenizer = FakeTokenizer()
        self.options: list[argparse.Namespace] = []

    def open(self, options: argparse.Namespace) -> LLM:
        self.options.append(options)
        return LLM.on(self.runner, self.tokenizer, [END])


@pytest.fixture
def fake_model(monkeypatch: pytest.MonkeyPatch) -> FakeModel:
    model = FakeModel()
    for module in (generate, chat, batch, verify):
        monkeypatch.setattr(module, "open_llm", model.open)
    return model
