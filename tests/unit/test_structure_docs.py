"""What the documents name exists: paths, links, options, presets, variables."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from unit.structure_files import ROOT, files, relative

DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *files("docs", "third_party", suffixes=(".md",)),
]

# Folders that exist only after a build or after the first use.
GENERATED = ("build/", ".venv/")


def code_spans(text: str) -> list[str]:
    """Inline code, and each line of the fenced blocks."""
    spans: list[str] = []
    for block in re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        spans += block.splitlines()
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return spans + re.findall(r"`([^`\n]+)`", rest)


def path_exists(name: str) -> bool:
    """Whether a path in a document leads somewhere; what is no path of this project passes."""
    if name.startswith(GENERATED):
        return True
    first = name.split("/")[0]
    if first == "terrazzo":
        return any((ROOT / base / name).exists() for base in ("include", "python"))
    if not (ROOT / first).exists():
        return True
    return bool(list(ROOT.glob(name))) if "*" in name else (ROOT / name).exists()


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_paths_exist(path: Path) -> None:
    words = [word for span in code_spans(path.read_text()) for word in span.split()]
    candidates = [re.sub(r"^\./|[:,;.]+$", "", word) for word in words]
    named = [word for word in candidates if re.fullmatch(r"[\w.*-]+(/[\w.*-]+)+/?", word)]
    assert not [name for name in named if not path_exists(name)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)", path.read_text())
    local = [target.split("#")[0] for target in targets if not re.match(r"[a-z]+:|#", target)]
    assert not [target for target in local if not (path.parent / target).exists()]


@cache
def known_text() -> str:
    """Everything that can define an option or a variable."""
    found = files("cmake", "third_party", "src", suffixes=(".cmake", ".txt"))
    found += files("python", "include", suffixes=(".py", ".hpp"))
    found += files("tests/cpp", suffixes=(".hpp",))
    found += [ROOT / "CMakeLists.txt", ROOT / "pyproject.toml"]
    return "\n".join(path.read_text() for path in found)


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_variables_and_settings_exist(path: Path) -> None:
    text = path.read_text()
    named = set(re.findall(r"\bTERRAZZO_[A-Z0-9][A-Z0-9_]*\b", text))
    named |= set(re.findall(r"-C[ =](terrazzo\.[\w-]+)", text))
    words = set(re.findall(r"\bTERRAZZO_[A-Z0-9_]+\b|terrazzo\.[\w-]+", known_text()))
    assert not sorted(named - words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_presets_exist(path: Path) -> None:
    presets = json.loads((ROOT / "CMakePresets.json").read_text())["configurePresets"]
    known = {preset["name"] for preset in presets if not preset.get("hidden")}
    assert set(re.findall(r"--preset[ =](\w+)", path.read_text())) <= known


@cache
def help_of(command: str) -> str:
    """The help text of `terrazzo COMMAND`, or of `terrazzo` for an empty name."""
    words = [sys.executable, "-m", "terrazzo", *command.split(), "--help"]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


COMMAND = re.compile(r"^(?:\$ )?(?:\S+/)?(?:python -m )?terrazzo(?:\s+|$)(.*)")


def commands(text: str) -> list[tuple[str, list[str]]]:
    """(subcommand, its long options) of each `terrazzo ...` command in the code of a document."""
    found = []
    for span in code_spans(text):
        for part in re.split(r"&&|\|", span):
            match = re.match(
                r"^(?:\$ )?(?:\S+/)?(?:python -m )?terrazzo(?:\s+|$)(.*)", part.strip()
            )
            if match:
                words = re.sub(r"\"[^\"]*\"|'[^']*'", "", match.group(1)).split("#")[0].split()
                name = words[0] if words and re.fullmatch(r"[a-z]+", words[0]) else ""
                options = [word.split("=")[0] for word in words if word.startswith("--")]
                found.append((name, options))
    return found


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_commands_and_options_exist(path: Path) -> None:
    for name, options in commands(path.read_text()):
        text = help_of(name)
        assert not [option for option in options if option not in text], name


@pytest.mark.parametrize("path", DOCUMENTS, ids=relative)
def test_tool_options_exist(path: Path) -> None:
    for span in code_spans(path.read_text()):
        match = re.match(r"(?:\./)?(tools/\w+)\s+(.*)", span)
        if match:
            script = (ROOT / match.group(1)).read_text()
            options = re.findall(r"--[\w-]+", match.group(2))
            assert not [option for option in options if option not in script], span


def test_the_checks_see_what_they_should() -> None:
    assert not path_exists("docs/no-such-page.md")
    assert not path_exists("terrazzo/no_such.hpp")
    assert path_exists("terrazzo/version.hpp")
    text = 'Run `terrazzo info --verbose` or\n```\n.venv/bin/terrazzo chat --model "a --b"\n```\n'
    assert sorted(commands(text)) == [("chat", ["--model"]), ("info", ["--verbose"])]
