"""The layout of the Python package: import order, a cheap import, no prints, one place for env."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from unit.structure_files import ROOT, files, relative

PACKAGE = ROOT / "python" / "terrazzo"

# A module imports from its own folder and from modules of a lower level.
LEVELS = {
    "_core": 0,
    "env": 0,
    "progress": 0,
    "costs": 1,
    "sampling": 1,
    "models": 2,
    "device": 3,
    "packing": 3,
    "step": 3,
    "capacity": 4,
    "engine": 4,
    "loading": 4,
    "runner": 5,
    "llm": 6,
    "bench": 6,
    "trace": 6,
    "cli": 7,
    "__main__": 8,
}

# __init__.py gathers the public names from all levels, lazily: test_import_is_cheap.
MODULES = [path for path in files("python", suffixes=(".py",)) if path != PACKAGE / "__init__.py"]
LIBRARY_MODULES = [
    path for path in MODULES if path.relative_to(PACKAGE).parts[0] not in ("cli", "__main__.py")
]

# Loaded by `import terrazzo` they would make every tool that only asks for a path wait.
EXPENSIVE = {"numpy", "torch", "tokenizers", "safetensors", "huggingface_hub", "gguf", "jinja2"}


def top_name(path: Path) -> str:
    """The module or folder of the package that holds the file."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def internal_imports(path: Path, tree: ast.AST) -> list[tuple[str, int]]:
    """(name under `terrazzo`, line) of each import of the package's own modules."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.append((node.module or "", node.lineno))
        elif isinstance(node, ast.ImportFrom):
            base = path.relative_to(PACKAGE.parent).parts[: -node.level]
            if node.module:
                found.append((".".join((*base, node.module)), node.lineno))
            else:
                found += [(".".join((*base, alias.name)), node.lineno) for alias in node.names]
    return [
        (name.split(".")[1], line)
        for name, line in found
        if name.startswith("terrazzo.") and name.split(".")[1] != "__version__"
    ]


def import_problems(path: Path, tree: ast.AST) -> list[str]:
    """Imports that point to the same level or a higher one."""
    own = top_name(path)
    problems = []
    for name, line in internal_imports(path, tree):
        if name not in LEVELS:
            problems.append(f"line {line}: {name} is not in LEVELS")
        elif name != own and LEVELS[name] >= LEVELS[own]:
            problems.append(f"line {line}: {own} may not import {name}")
    return problems


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_imports_point_down(path: Path) -> None:
    assert top_name(path) in LEVELS, "give the new module a level"
    assert not import_problems(path, ast.parse(path.read_text()))


@pytest.mark.parametrize(
    ("file", "line", "part"),
    [
        ("models/x.py", "from ..engine import Engine", "models may not import engine"),
        ("engine/x.py", "from .. import runner", "engine may not import runner"),
        ("models/x.py", "from ..step import Runner", "models may not import step"),
        ("llm.py", "import terrazzo.cli.main", "llm may not import cli"),
        ("models/x.py", "from ..nowhere import a", "nowhere is not in LEVELS"),
    ],
)
def test_the_import_check_sees_what_it_should(file: str, line: str, part: str) -> None:
    (problem,) = import_problems(PACKAGE / file, ast.parse(line))
    assert part in problem


def run_python(code: str) -> str:
    """Standard output of a fresh interpreter."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_import_is_cheap() -> None:
    code = (
        "import sys, json; before = set(sys.modules); import terrazzo; terrazzo.include_dir;"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    loaded = json.loads(run_python(code))
    assert not {name.split(".")[0] for name in loaded} & EXPENSIVE
    assert [name for name in loaded if name.startswith("terrazzo")] == ["terrazzo"]


def test_import_takes_less_than_300_ms() -> None:
    code = (
        "import time; start = time.perf_counter(); import terrazzo;"
        "print(time.perf_counter() - start)"
    )
    assert min(float(run_python(code)) for _ in range(3)) < 0.3


def test_public_names() -> None:
    import terrazzo

    assert set(terrazzo.__all__) <= set(dir(terrazzo))
    assert terrazzo.__version__
    with pytest.raises(AttributeError, match="'terrazzo' has no attribute 'nonsense'"):
        _ = terrazzo.nonsense


def test_version_has_one_source() -> None:
    import terrazzo

    header = (ROOT / "include/terrazzo/version.hpp").read_text()
    parts = [
        line.split()[-1] for line in header.splitlines() if line.startswith("#define TERRAZZO_VER")
    ]
    assert ".".join(parts) == terrazzo.__version__


@pytest.mark.parametrize("path", LIBRARY_MODULES, ids=relative)
def test_only_the_command_line_prints(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = [call.func.id for call in calls if isinstance(call.func, ast.Name)]
    assert "print" not in names


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_environment_variables_only_in_env(path: Path) -> None:
    attributes = [
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    ]
    used = {"environ", "getenv", "putenv"} & set(attributes)
    assert not used or path == PACKAGE / "env.py"
