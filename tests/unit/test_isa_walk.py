"""A walk over the instruction set: each opcode has an operation, accesses, documents and tests."""

from __future__ import annotations

import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from unit.structure_files import ROOT, files

INSTRUCTIONS = ROOT / "include/terrazzo/instructions"
ISA_DEF = (ROOT / "include/terrazzo/core/isa.def").read_text()
ISA = re.findall(r"^TERRAZZO_INSTRUCTION\((\w+), (\w+)\)", ISA_DEF, re.MULTILINE)
ENUMERATORS = dict((name, enumerator) for enumerator, name in ISA)
NAMES = list(ENUMERATORS)
# Between the label of a case and its code.
MORE_LABELS = r"(?:\s*case Opcode::\w+:)*"

# Instructions that touch no buffer.
WITHOUT_ACCESSES = {"step_end"}


def body_after(text: str, start: int) -> str:
    """The braces that open at or after `start`, with what they hold."""
    begin = text.index("{", start)
    depth = 0
    for at in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        if depth == 0:
            return text[begin : at + 1]
    raise AssertionError(f"no end of the braces at {begin}")


def type_for(enumerator: str, function: str) -> str:
    """The type that a function of set.hpp chooses for an opcode: its case, or the default."""
    text = (INSTRUCTIONS / "set.hpp").read_text()
    start = re.search(rf"\bvoid {function}\(", text)
    assert start, f"set.hpp: expected a function {function}"
    body = body_after(text, start.end())
    for label in (f"case Opcode::{enumerator}", "default"):
        match = re.search(rf"{label}:{MORE_LABELS}\s*return f\((\w+)\{{\}}\);", body)
        if match:
            return match.group(1)
    raise AssertionError(f"set.hpp: expected a case for {enumerator} in {function}")


def operation_of(enumerator: str) -> str:
    """The type with an instruction's stores; for a matrix product also with its input and end."""
    return type_for(enumerator, "dispatch_storer")


def shared_operation_of(enumerator: str) -> str:
    """The type that loaders and consumers run; `Gemm` for all instructions of a matrix."""
    return type_for(enumerator, "dispatch")


def definition_of(operation: str) -> str:
    """The body of the struct that an operation is, or is an instance of."""
    struct = struct_of(operation)
    for path in sorted(INSTRUCTIONS.glob("*.hpp")):
        text = path.read_text()
        match = re.search(rf"^struct {struct} ", text, re.MULTILINE)
        if match:
            return body_after(text, match.end())
    raise AssertionError(f"expected a header that defines {operation}")


def struct_of(operation: str) -> str:
    """The template of which an operation is an instance, or the operation itself."""
    for path in sorted(INSTRUCTIONS.glob("*.hpp")):
        alias = re.search(rf"^using {operation} = (\w+)<", path.read_text(), re.MULTILINE)
        if alias:
            return alias.group(1)
    return operation


def asked_by_gemm(enumerator: str, function: str) -> str:
    """The type whose `finish` or `input` the GEMM operation calls for an opcode."""
    body = definition_of("Gemm")
    for label in (f"case Opcode::{enumerator}", "default"):
        match = re.search(rf"{label}:{MORE_LABELS}\s*return (\w+)::{function}\(", body)
        if match:
            return match.group(1)
    raise AssertionError(f"gemm.hpp: expected a {function} for {enumerator}")


@cache
def functions(path: str) -> dict[str, str]:
    """The bodies of all functions of a file that have braces of their own, by name."""
    text = re.sub(r"//[^\n]*", "", (ROOT / path).read_text())
    pattern = r"^  (?:[\w:]+(?:<[^<>]*>)? )(\w+)\([^;{}]*\)(?: const)? \{"
    return {m.group(1): body_after(text, m.start()) for m in re.finditer(pattern, text, re.M)}


def reached(path: str, start: str) -> str:
    """The body of a function and of all functions of the file that it calls."""
    known = functions(path)
    seen: list[str] = []
    todo = [start]
    while todo:
        name = todo.pop()
        if name in known and name not in seen:
            seen.append(name)
            todo += re.findall(r"\b(\w+)\(", known[name])
    return "\n".join(known[name] for name in seen)


def declared_buffers(enumerator: str) -> set[str]:
    """Buffers named on the way of an opcode through the declared accesses."""
    path = "src/lower/accesses.cpp"
    text = (ROOT / path).read_text()
    match = re.search(rf"case Opcode::{enumerator}:(.*?)\bbreak;", text, re.DOTALL)
    assert match, f"{path}: expected a case for {enumerator}"
    handlers = re.findall(r"^ *(\w+)\(", match.group(1), re.MULTILINE)
    for handler in handlers:
        assert handler in functions(path), f"{path}: expected a function {handler}"
    bodies = [match.group(1), *(reached(path, handler) for handler in handlers)]
    return set(re.findall(r"Buffer::(k\w+)", "\n".join(bodies)))


@cache
def sections() -> dict[str, str]:
    """Third-level sections of docs/isa.md by title."""
    parts = re.split(r"^### (\w+)$", (ROOT / "docs/isa.md").read_text(), flags=re.MULTILINE)[1:]
    return {
        title: text.split("\n## ")[0] for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def printed_names(path: str, enum: str, names: str) -> dict[str, str]:
    """Printed name -> enumerator, from an enum and the array of its names."""
    text = re.sub(r"//[^\n]*", "", (ROOT / path).read_text())
    enumerators = re.findall(r"\bk\w+", body_after(text, text.index(f"enum class {enum}")))
    printed = re.findall(r'"(\w+)"', body_after(text, text.index(f"{names}[")))
    return dict(zip(printed, enumerators, strict=False))


def documented_buffers(name: str) -> set[str]:
    known = printed_names("include/terrazzo/core/heap.hpp", "Buffer", "kBufferNames")
    rows = re.findall(r"^\| (?:reads|writes) \| `(\w+)` \|", sections()[name], re.MULTILINE)
    return {known[row] for row in rows}


def documented_families(name: str, kind: str) -> set[str]:
    """Counter families in the table of waits or signals of a section."""
    known = printed_names("src/lower/counter_map.hpp", "CounterFamily", "kCounterFamilyNames")
    match = re.search(rf"^\| {kind} \|.*\n\| ---.*\n((?:\|.*\n)*)", sections()[name], re.MULTILINE)
    rows = match.group(1).splitlines() if match else []
    return {known[row.split("|")[1].strip()] for row in rows}


def test_the_instruction_set_was_read() -> None:
    assert len(NAMES) == ISA_DEF.count("TERRAZZO_INSTRUCTION(k")
    assert len(NAMES) > 10
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_has_an_operation(name: str) -> None:
    operation = operation_of(ENUMERATORS[name])
    shared = shared_operation_of(ENUMERATORS[name])
    expected = {operation: {"slots", "load", "consume", "store"}}
    if shared != operation:  # a matrix product: one main loop, an input and an end of its own
        assert shared == "Gemm"
        assert struct_of(asked_by_gemm(ENUMERATORS[name], "finish")) == struct_of(operation)
        assert asked_by_gemm(ENUMERATORS[name], "input") == operation
        expected = {shared: {"slots", "load", "consume"}, operation: {"input", "finish", "store"}}
    for struct, names in expected.items():
        body = definition_of(struct)
        for function in names:
            assert re.search(rf"\b{function}\(", body), f"{struct}: expected {function}"


@pytest.mark.parametrize("name", NAMES)
def test_declares_its_accesses(name: str) -> None:
    declared = declared_buffers(ENUMERATORS[name])
    assert bool(declared) == (name not in WITHOUT_ACCESSES)
    assert declared == documented_buffers(name), "docs/isa.md and accesses.cpp differ"


@pytest.mark.parametrize("name", NAMES)
def test_has_a_section_in_the_documents(name: str) -> None:
    assert name in sections()
    assert f"`{ENUMERATORS[name]}`" in sections()[name]


def emitters() -> dict[str, set[str]]:
    """Functions of the lowering that emit instructions, with the opcodes they name."""
    known = functions("src/lower/lower.cpp")
    found = {name: set(re.findall(r"Opcode::(k\w+)", body)) for name, body in known.items()}
    return {name: opcodes for name, opcodes in found.items() if opcodes}


@pytest.mark.parametrize("name", NAMES)
def test_is_emitted_by_the_lowering(name: str) -> None:
    assert any(ENUMERATORS[name] in opcodes for opcodes in emitters().values())


@pytest.mark.parametrize("emitter", sorted(emitters()))
def test_documented_counters_are_those_of_the_lowering(emitter: str) -> None:
    body = functions("src/lower/lower.cpp")[emitter].replace("counters_.kv(", "kKv, ")
    families = printed_names("src/lower/counter_map.hpp", "CounterFamily", "kCounterFamilyNames")
    used = set(re.findall(r"\bk\w+", body)) & set(families.values())
    emitted = [name for name in NAMES if ENUMERATORS[name] in emitters()[emitter]]
    documented: set[str] = set()
    for name in emitted:
        documented |= documented_families(name, "waits") | documented_families(name, "signals")
    assert documented == used


@cache
def cpp_tests() -> dict[Path, str]:
    found = files("tests/cpp", suffixes=(".cpp",))
    return {path: path.read_text() for path in found if path.name.startswith("test_")}


@pytest.mark.parametrize("name", NAMES)
def test_is_named_by_a_test(name: str) -> None:
    word = re.compile(rf"\b(?:{name}|{ENUMERATORS[name]})\b")
    assert [path for path, text in cpp_tests().items() if word.search(text)]


def test_page_is_what_the_generator_writes() -> None:
    command = [sys.executable, "tools/generate_isa_doc", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_walk_sees_what_it_should() -> None:
    assert "hidden_panels" in definition_of("Embed")
    assert "kWrite" in reached("src/lower/accesses.cpp", "embed")
    with pytest.raises(AssertionError, match="expected a header that defines Nonsense"):
        definition_of("Nonsense")
    with pytest.raises(AssertionError, match="expected a case for kNonsense"):
        operation_of("kNonsense")
    assert shared_operation_of("kEmbed") == "Embed"
    assert shared_operation_of("kLmHead") == "Gemm"
    assert asked_by_gemm("kLmHead", "finish") == operation_of("kLmHead") == "LmHead"
    for label in ("kReduceO", "kReduceResidual"):  # of the same case
        assert operation_of(label) == shared_operation_of(label) == "ReducePartials"
    assert asked_by_gemm("kOPartial", "finish") == operation_of("kOPartial") == "ProjectPartial"
    assert (
        struct_of("DownResidual")
        == struct_of(asked_by_gemm("kDownResidual", "finish"))
        == "ProjectResidual"
    )
