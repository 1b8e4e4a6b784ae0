"""The layout of the C++ code: layers, include style, where assembly and conditionals may be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from unit.structure_files import (
    CPP_SUFFIXES,
    ROOT,
    files,
    relative,
    without_comments_and_strings,
)

# A file includes from its own layer and from those before it.
LAYERS = ("core", "arch", "tile", "comm", "vm", "instructions", "src", "bindings")

# Bodies that one header expands several times, once for each vector width; alone they are empty.
EXPANDED_BODIES = "include/terrazzo/arch/host/simd/bod"

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
LIBRARY_FILES = files("include", "src", suffixes=CPP_SUFFIXES)
HEADERS = [
    path
    for path in files("include", "src", suffixes=(".hpp", ".cuh"))
    if not relative(path).startswith(EXPANDED_BODIES)
]
WITHOUT_ASSEMBLY = [path for path in LIBRARY_FILES if "/arch/sm90/" not in relative(path)]
WITHOUT_CONDITIONALS = [
    path for path in LIBRARY_FILES if "/arch/" not in relative(path) and path.name != "config.hpp"
]


def layer_of(path: Path) -> str:
    """The layer that a file of include/ or src/ belongs to."""
    parts = path.relative_to(ROOT).parts
    if parts[0] == "src":
        return "bindings" if parts[1] == "bindings" else "src"
    return "core" if len(parts) == 3 else parts[2]  # include/terrazzo/version.hpp: core


def include_problems(path: Path, code: str) -> list[str]:
    """What is wrong with the includes of the file, one sentence each."""
    problems = []
    for kind, target in INCLUDE.findall(code):
        if kind == "<":
            if target.startswith("terrazzo/"):
                problems.append(f"<{target}>: our own headers are included in quotes")
            continue
        candidates = [base / target for base in (ROOT / "include", ROOT / "src")]
        found = [candidate for candidate in candidates if candidate.is_file()]
        if ".." in Path(target).parts or not found:
            problems.append(f'"{target}": expected a path from include/ or src/')
            continue
        seen, own = layer_of(found[0]), layer_of(path)
        if LAYERS.index(seen) > LAYERS.index(own):
            problems.append(f'"{target}": {own} may not include {seen}')
    return problems


@pytest.mark.parametrize("path", LIBRARY_FILES, ids=relative)
def test_includes_only_from_earlier_layers(path: Path) -> None:
    assert not include_problems(path, path.read_text())


@pytest.mark.parametrize(
    ("file", "line", "part"),
    [
        ("include/terrazzo/core/x.hpp", '#include "terrazzo/vm/ring.hpp"', "may not include vm"),
        ("include/terrazzo/version.hpp", '#include "machine/cuda/cuda.hpp"', "may not include src"),
        ("src/lower/x.cpp", '#include "../machine/cuda/cuda.hpp"', "expected a path from"),
        ("src/lower/x.cpp", '#include "cuda.hpp"', "expected a path from"),
        ("src/lower/x.cpp", "#include <terrazzo/version.hpp>", "in quotes"),
    ],
)
def test_the_include_check_sees_what_it_should(file: str, line: str, part: str) -> None:
    (problem,) = include_problems(ROOT / file, line)
    assert part in problem


@pytest.mark.parametrize("path", HEADERS, ids=relative)
def test_header_says_what_it_is_for_and_is_included_once(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("// "), "line 1 says in one sentence what the file is for"
    directives = [line for line in lines if line.startswith("#")]
    assert directives[0] == "#pragma once"


@pytest.mark.parametrize("path", WITHOUT_ASSEMBLY, ids=relative)
def test_assembly_only_in_arch_sm90(path: Path) -> None:
    code = without_comments_and_strings(path.read_text())
    assert not re.search(r"\b(asm|__asm__|__asm)\b", code)


@pytest.mark.parametrize("path", WITHOUT_CONDITIONALS, ids=relative)
def test_conditionals_on_cuda_only_in_config_and_arch(path: Path) -> None:
    code = without_comments_and_strings(path.read_text())
    assert not re.search(r"^\s*#\s*(if|ifdef|ifndef|elif)\b.*__CUDA", code, re.MULTILINE)


@pytest.mark.parametrize(
    "path", files("include/terrazzo/instructions", suffixes=CPP_SUFFIXES), ids=relative
)
def test_instructions_speak_of_tiles_and_groups_only(path: Path) -> None:
    code = without_comments_and_strings(path.read_text())
    assert not re.search(r"\b(threadIdx|blockIdx|lane_id|lane_idx|__shfl\w*|__syncwarp)\b", code)


def test_comments_and_strings_are_ignored() -> None:
    code = 'int a; // asm\n/* asm\n asm */ const char* b = "asm \\" asm"; char c = \'"\'; int d;'
    kept = without_comments_and_strings(code)
    assert "asm" not in kept
    assert "int d" in kept
    assert kept.count("\n") == code.count("\n")
