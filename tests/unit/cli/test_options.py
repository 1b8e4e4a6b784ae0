"""Options that reach the model as they were given."""

from __future__ import annotations

import argparse
from typing import Any

import pytest

from terrazzo.bench.target import Target
from terrazzo.cli.options import add_model_options, open_llm


@pytest.mark.parametrize(
    ("given", "expected"), [([], "auto"), (["--gpus", "2", "--o-proj", "sharded"], "sharded")]
)
def test_how_o_is_kept(monkeypatch: pytest.MonkeyPatch, given: list[str], expected: str) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("terrazzo.llm.LLM", lambda model, **arguments: seen.update(arguments))
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    open_llm(parser.parse_args(given))
    assert seen["o_proj"] == expected


@pytest.mark.parametrize(("given", "expected"), [([], "layers"), (["--order=planned"], "planned")])
def test_the_order_of_a_step(
    monkeypatch: pytest.MonkeyPatch, given: list[str], expected: str
) -> None:
    seen: dict[str, Any] = {}
    monkeypatch.setattr("terrazzo.llm.LLM", lambda model, **arguments: seen.update(arguments))
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    open_llm(parser.parse_args(given))
    assert seen["order"] == expected
    open_llm(parser.parse_args(given), order="layers")
    assert seen["order"] == "layers"


def test_an_unknown_way_to_keep_o(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_model_options(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--o-proj", "whole"])
    assert "auto" in capsys.readouterr().err


def test_a_benchmark_takes_both_too() -> None:
    target = Target(shape="tiny", device="host", num_sms=1, o_proj="sharded")
    with pytest.raises(ValueError, match="o_proj='sharded': expected at least 2 GPUs, got 1"):
        target.open()
    target = Target(shape="tiny", device="host", num_sms=1, order="best")
    with pytest.raises(ValueError, match="order='best': expected one of layers, planned"):
        target.open()
