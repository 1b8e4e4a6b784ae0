"""Environment variables are typed; a value that does not parse names the variable."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from terrazzo import env


def test_the_table() -> None:
    assert len(env.TABLE) < 10
    assert all(re.fullmatch(r"TERRAZZO_[A-Z_]+", entry.name) for entry in env.TABLE)
    assert len({entry.name for entry in env.TABLE}) == len(env.TABLE)
    variables = [value for value in vars(env).values() if isinstance(value, env.Variable)]
    assert {entry.name for entry in variables} == {entry.name for entry in env.TABLE}


@pytest.mark.parametrize("entry", env.TABLE, ids=lambda entry: entry.name)
def test_unset_and_empty_give_the_default(entry: env.Variable[Any]) -> None:
    assert entry.read({}) == entry.read({entry.name: ""}) == entry.default


@pytest.mark.parametrize(
    ("entry", "text", "value"),
    [
        (env.CACHE_DIR, "/somewhere", Path("/somewhere")),
        (env.MODEL, "a/b", "a/b"),
        (env.DEVICE, "host", "host"),
        (env.NUM_SMS, "3", 3),
        (env.KV_GIB, "0.5", 0.5),
        (env.TRACEBACK, "1", True),
        (env.TRACEBACK, "0", False),
        (env.REQUIRE_GPU, "1", True),
    ],
)
def test_values(entry: env.Variable[Any], text: str, value: object) -> None:
    assert entry.read({entry.name: text}) == value


@pytest.mark.parametrize(
    ("entry", "text", "expected"),
    [
        (env.DEVICE, "tpu", "expected auto, host or cuda"),
        (env.NUM_SMS, "0", "expected a positive integer"),
        (env.NUM_SMS, "two", "expected a positive integer"),
        (env.NUM_SMS, "-1", "expected a positive integer"),
        (env.KV_GIB, "nan", "expected a positive number"),
        (env.KV_GIB, "inf", "expected a positive number"),
        (env.KV_GIB, "-1", "expected a positive number"),
        (env.KV_GIB, "much", "expected a positive number"),
        (env.TRACEBACK, "yes", "expected 0 or 1"),
        (env.REQUIRE_GPU, "true", "expected 0 or 1"),
    ],
)
def test_bad_values(entry: env.Variable[Any], text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=rf"\[env\] {entry.name}='{text}': {expected}"):
        entry.read({entry.name: text})


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TERRAZZO_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert env.cache_dir() == tmp_path / "terrazzo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert env.cache_dir() == Path.home() / ".cache" / "terrazzo"
    monkeypatch.setenv("TERRAZZO_CACHE_DIR", "~/models")
    assert env.cache_dir() == Path.home() / "models"
