"""Where the structure tests find the project's files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

CPP_SUFFIXES = (".hpp", ".cpp", ".cu", ".cuh", ".def", ".inc")
SOURCE_FOLDERS = ("include", "src", "python", "tests", "tools", "cmake", "third_party")

_BLOCK_COMMENT_OR_TEXT = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.DOTALL
)


def files(*folders: str, suffixes: tuple[str, ...]) -> list[Path]:
    """All files of these folders that end in one of the suffixes, sorted."""
    return sorted(_walk(folders, suffixes))


def _walk(folders: tuple[str, ...], suffixes: tuple[str, ...]) -> Iterator[Path]:
    for folder in folders:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in suffixes and "__pycache__" not in path.parts:
                yield path


def relative(path: Path) -> str:
    """The path as a reader would write it, from the project's root."""
    return path.relative_to(ROOT).as_posix()


def without_comments_and_strings(code: str) -> str:
    """C++ code with each comment and literal blanked out, line numbers kept."""
    return _BLOCK_COMMENT_OR_TEXT.sub(lambda match: "\n" * match.group().count("\n"), code)
