"""Code that a document quotes is in the code."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from unit.structure_files import ROOT, files, relative

DOCUMENTS = files("docs", suffixes=(".md",))
PICTURES = files("docs", suffixes=(".svg",))

# A fenced block of C++ whose first line names a file; "..." alone on a line leaves something out.
EXCERPT = re.compile(r"^```cpp\n// (\S+/\S+)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def squeezed(code: str) -> str:
    """Code without white space: formatters may move it."""
    return "".join(code.split())


def missing_parts(file: str, excerpt: str) -> list[str]:
    """Parts of an excerpt that are not in the file, or not in this order."""
    code = squeezed((ROOT / file).read_text())
    missing = []
    at = 0
    for part in re.split(r"^\s*\.\.\.\s*$", excerpt, flags=re.MULTILINE):
        found = code.find(squeezed(part), at)
        if found < 0:
            missing.append(part)
        else:
            at = found + len(squeezed(part))
    return missing


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_excerpts_are_in_the_code(path: Path) -> None:
    for file, excerpt in EXCERPT.findall(path.read_text()):
        assert not missing_parts(file, excerpt), file


@pytest.mark.parametrize("path", PICTURES, ids=relative)
def test_pictures_name_what_exists(path: Path) -> None:
    texts = ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    text = " ".join("".join(element.itertext()) for element in texts)
    words = set(re.findall(r"\b[a-z0-9]+(?:_[a-z0-9]+)+\b", text))
    known = "\n".join(
        (ROOT / file).read_text()
        for file in (
            "include/terrazzo/core/isa.def",
            "include/terrazzo/core/heap.hpp",
            "include/terrazzo/arch/host/shared_storage.hpp",
        )
    )
    assert words
    assert not [word for word in sorted(words) if not re.search(rf"\b{word}\b", known)]


def test_the_checks_see_what_they_should() -> None:
    file = "include/terrazzo/core/isa.def"
    assert not missing_parts(file, "TERRAZZO_INSTRUCTION(kEmbed,\n  embed)\n...\n  sample)\n")
    assert missing_parts(file, "sample)\n...\nembed)")
    assert missing_parts(file, "TERRAZZO_INSTRUCTION(kNonsense, nonsense)")
    quoted = "```cpp\n// include/terrazzo/core/isa.def\nnonsense\n```\n"
    assert EXCERPT.findall(quoted) == [(file, "nonsense\n")]
    assert sum(len(EXCERPT.findall(path.read_text())) for path in DOCUMENTS) > 5
