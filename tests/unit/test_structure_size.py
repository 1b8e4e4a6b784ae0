"""No file grows past what one can read at a sitting."""

from __future__ import annotations

from pathlib import Path

import pytest
from unit.structure_files import CPP_SUFFIXES, ROOT, SOURCE_FOLDERS, files, relative

MAX_LINES = 400
MAX_LINES_WITH_REASON = 600

# File -> why it may have up to MAX_LINES_WITH_REASON lines.
REASONS: dict[str, str] = {
    "tools/probes/decode_kernel.cuh": "a kernel whose two forms are read side by side",
}

FILES = files(*SOURCE_FOLDERS, suffixes=(*CPP_SUFFIXES, ".py", ".pyi", ".cmake", ".txt"))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_file_is_short(path: Path) -> None:
    limit = MAX_LINES_WITH_REASON if relative(path) in REASONS else MAX_LINES
    num_lines = len(path.read_text().splitlines())
    assert num_lines <= limit, f"{num_lines} lines; split the file by what it is for"


def test_reasons_are_still_needed() -> None:
    short = [
        name
        for name in REASONS
        if not (ROOT / name).is_file() or len((ROOT / name).read_text().splitlines()) <= MAX_LINES
    ]
    assert not short
