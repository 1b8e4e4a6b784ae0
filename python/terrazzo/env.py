"""The environment variables that Terrazzo reads, in one typed table."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Variable(Generic[T]):
    """One environment variable: its name, how its text is read, its default, and what it does."""

    name: str
    parse: Callable[[str], T]
    default: T
    help: str

    def read(self, environ: Mapping[str, str] | None = None) -> T:
        """Return the parsed value, or the default where the variable is unset or empty.

        Raises ValueError when the text does not parse.
        """
        text = (os.environ if environ is None else environ).get(self.name, "")
        if not text:
            return self.default
        try:
            return self.parse(text)
        except ValueError as error:
            raise ValueError(f"[env] {self.name}={text!r}: {error}") from None


def _flag(text: str) -> bool:
    if text in ("0", "1"):
        return text == "1"
    raise ValueError("expected 0 or 1")


def _positive_int(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    raise ValueError("expected a positive integer")


def _positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if 0.0 < value < float("inf"):
        return value
    raise ValueError("expected a positive number")


def _device(text: str) -> str:
    if text in ("auto", "host", "cuda"):
        return text
    raise ValueError("expected auto, host or cuda")


def _folder(text: str) -> Path:
    return Path(text).expanduser()


def _default_cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "terrazzo"


CACHE_DIR: Variable[Path | None] = Variable(
    "TERRAZZO_CACHE_DIR", _folder, None, "folder for downloaded models [~/.cache/terrazzo]"
)
MODEL: Variable[str | None] = Variable(
    "TERRAZZO_MODEL", str, None, "model used when none is named [the default model]"
)
DEVICE: Variable[str] = Variable(
    "TERRAZZO_DEVICE", _device, "auto", "machine that `auto` stands for: auto, host or cuda"
)
NUM_SMS: Variable[int | None] = Variable(
    "TERRAZZO_NUM_SMS", _positive_int, None, "virtual SMs of each host GPU [one per core]"
)
KV_GIB: Variable[float] = Variable(
    "TERRAZZO_KV_GIB", _positive_float, 0.5, "KV cache in GiB where its pages are not given [0.5]"
)
TRACEBACK: Variable[bool] = Variable(
    "TERRAZZO_TRACEBACK", _flag, False, "1: the command line shows tracebacks of user errors"
)
REQUIRE_GPU: Variable[bool] = Variable(
    "TERRAZZO_REQUIRE_GPU", _flag, False, "1: tests that need a GPU fail where there is none"
)

TABLE: tuple[Variable[Any], ...] = (
    CACHE_DIR,
    MODEL,
    DEVICE,
    NUM_SMS,
    KV_GIB,
    TRACEBACK,
    REQUIRE_GPU,
)


def cache_dir() -> Path:
    """The folder that keeps downloaded models; it may not exist yet."""
    return CACHE_DIR.read() or _default_cache_dir()
