"""Renders docs/isa.md from core/isa.def, the headers that define the encoding, and isa_table.py."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

from isa_entry import Edge, InstructionDoc, Place
from isa_table import INSTRUCTIONS, OPERANDS

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "isa.md"
CORE = "include/terrazzo/core"
OPERATIONS = "include/terrazzo/instructions"

INTRODUCTION = """\
# Instruction set

This page is generated: `tools/generate_isa_doc` writes it from `include/terrazzo/core/isa.def`, the
headers of `include/terrazzo/core` and `tools/isa_table.py`, and a test compares the two. How a new
instruction comes into being is told in [add-an-instruction.md](add-an-instruction.md).

## Encoding

An instruction is 128 bytes (`include/terrazzo/core/isa.hpp`, version {version}):

| offset | bytes | field | meaning |
| --- | --- | --- | --- |
| 0 | 2 | `opcode` | the number in the table below |
| 2 | 1 | `flags` | see below |
| 3 | 1 | `layer_offset` | in a body: its layer is iteration + offset; prologue: iteration -1 |
| 4 | 36 | `waits` | 3 x `Wait`: first counter, how many, target |
| 40 | 16 | `signals` | 2 x `Signal`: first counter, how many, increment, mask of GPUs |
| 56 | 72 | `args` | a union, by opcode |

A wait is met when each of its counters has reached the target. A signal is made by each of the two
storers when its own stores are complete, so a counter grows by twice the increment. Counters are
named relative to the block of the instruction's layer; a negative first counter names the block
before. A count of 0 means no wait, or no signal.

| flag | value | meaning |
| --- | --- | --- |
"""


@dataclass(frozen=True, slots=True)
class Field:
    """A declaration and the comment beside it."""

    name: str
    comment: str


def read(path: str) -> str:
    return (ROOT / path).read_text()


def first_match(pattern: str, text: str, what: str) -> re.Match[str]:
    match = re.search(pattern, text, re.DOTALL | re.MULTILINE)
    if match is None:
        raise SystemExit(f"tools/generate_isa_doc: expected {what}, found none")
    return match


def opcodes() -> list[tuple[str, str]]:
    """(enumerator, name) in the order of their encoding."""
    text = read(f"{CORE}/isa.def")
    return re.findall(r"^TERRAZZO_INSTRUCTION\((\w+), (\w+)\)", text, re.MULTILINE)


def fields_of(body: str, declaration: str) -> list[Field]:
    """Declarations of a struct or enum, each with its comment and the comment lines below it."""
    fields: list[Field] = []
    for line in body.splitlines():
        code, _, comment = line.partition("//")
        match = re.match(declaration, code.strip())
        if match:
            fields.append(Field(match.group(1), comment.strip()))
        elif not code.strip() and comment and fields:
            last = fields.pop()
            fields.append(Field(last.name, f"{last.comment} {comment.strip()}".strip()))
    return [Field(field.name, " ".join(field.comment.split())) for field in fields]


def struct_of(member: str, isa: str) -> str:
    """The type of a member of `union Operands`."""
    union = first_match(r"^union Operands \{(.*?)^\};", isa, "union Operands").group(1)
    return first_match(rf"(\w+) {member};", union, f"Operands::{member}").group(1)


def operand_lines(isa: str) -> list[str]:
    """A table for each struct of operands that an instruction uses."""
    structs: dict[str, list[str]] = {}
    for name, doc in INSTRUCTIONS.items():
        if doc.operands:
            structs.setdefault(struct_of(doc.operands, isa), []).append(name)
    lines = ["## Operands", ""]
    for struct, users in structs.items():
        body = first_match(rf"^struct {struct} \{{(.*?)^\}};", isa, f"struct {struct}").group(1)
        lines += [f"### {struct}", "", f"Of {', '.join(f'`{user}`' for user in users)}.", ""]
        lines += ["| word | operand | meaning |", "| --- | --- | --- |"]
        for i, field in enumerate(fields_of(body, r"uint32_t (\w+);")):
            lines.append(f"| {i} | `{field.name}` | {field.comment or OPERANDS[field.name]} |")
        lines.append("")
    return lines


def buffers() -> dict[str, tuple[Field, str]]:
    """By enumerator of `Buffer`: its declaration and its printed name."""
    heap = read(f"{CORE}/heap.hpp")
    body = first_match(r"^enum class Buffer : uint32_t \{(.*?)^\};", heap, "enum Buffer").group(1)
    fields = [f for f in fields_of(body, r"(k\w+),?$") if f.name != "kCount"]
    names = first_match(r"kBufferNames\[kNumBuffers\] = \{(.*?)\};", heap, "kBufferNames").group(1)
    return {
        field.name: (field, name)
        for field, name in zip(fields, re.findall(r'"(\w+)"', names), strict=True)
    }


def families() -> dict[str, tuple[Field, str]]:
    """By enumerator of `CounterFamily`: its declaration and its printed name."""
    text = read("src/lower/counter_map.hpp")
    enum = r"^enum class CounterFamily : uint32_t \{(.*?)^\};"
    body = first_match(enum, text, "enum CounterFamily").group(1)
    fields = [f for f in fields_of(body, r"(k\w+),?$") if f.name != "kCount"]
    names = first_match(r"kCounterFamilyNames\[\w+\] = \{(.*?)\};", text, "family names").group(1)
    return {
        field.name: (field, name)
        for field, name in zip(fields, re.findall(r'"(\w+)"', names), strict=True)
    }


def operation_of(enumerator: str) -> tuple[str, str]:
    """(type, header) that the instruction set dispatches the opcode to."""
    pattern = rf"case Opcode::{enumerator}:(?:\s*case Opcode::\w+:)*\s*return f\((\w+)\{{"
    operation = first_match(pattern, read(f"{OPERATIONS}/set.hpp"), f"a case {enumerator}").group(1)
    for path in sorted((ROOT / OPERATIONS).glob("*.hpp")):
        if re.search(rf"^(struct|using) {operation}\b", path.read_text(), re.MULTILINE):
            return operation, path.relative_to(ROOT).as_posix()
    raise SystemExit(f"tools/generate_isa_doc: expected a header that defines {operation}")


def edge_table(title: str, edges: tuple[Edge, ...]) -> list[str]:
    if not edges:
        return [f"{title}: none.", ""]
    names = families()
    lines = [f"| {title.lower()} | counters | meaning |", "| --- | --- | --- |"]
    lines += [f"| {names[edge.family][1]} | {edge.counters} | {edge.note} |" for edge in edges]
    return [*lines, ""]


def place_table(doc: InstructionDoc) -> list[str]:
    if not doc.reads and not doc.writes:
        return ["Touches no buffer.", ""]
    names = buffers()

    def row(does: str, place: Place) -> str:
        return f"| {does} | `{names[place.buffer][1]}` | {place.gpu} | {place.part} |"

    lines = ["| access | buffer | of | part |", "| --- | --- | --- | --- |"]
    lines += [row("reads", place) for place in doc.reads]
    lines += [row("writes", place) for place in doc.writes]
    return [*lines, ""]


def wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, 100, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def section(number: int, enumerator: str, name: str, isa: str) -> list[str]:
    doc = INSTRUCTIONS[name]
    operation, header = operation_of(enumerator)
    items = [
        f"Opcode {number}, `{enumerator}`; `{operation}` in `{header}`.",
        f"Segment: {doc.segment}. One for each {doc.unit}.",
    ]
    if doc.operands:
        struct = struct_of(doc.operands, isa)
        items.append(f"Operands: [{struct}](#{struct.lower()}).")
    if doc.flags:
        items.append(f"Flags: {', '.join(f'`{flag}`' for flag in doc.flags)}.")
    items.append(f"Ring: {doc.stream}.")
    if doc.constants:
        items.append(f"Constant during a step, so not declared: {doc.constants}.")
    lines = [f"### {name}", "", *wrapped(doc.computes), ""]
    for item in [*items, *doc.notes]:
        lines += wrapped(f"* {item}", "  ")
    lines.append("")
    lines += edge_table("Waits", doc.waits) + edge_table("Signals", doc.signals)
    return lines + place_table(doc)


def users(family: str, *, signals: bool) -> str:
    found = [
        name
        for name, doc in INSTRUCTIONS.items()
        if any(edge.family == family for edge in (doc.signals if signals else doc.waits))
    ]
    return ", ".join(f"`{name}`" for name in found)


def render() -> str:
    isa = read(f"{CORE}/isa.hpp")
    version = first_match(r"kIsaVersion = (\d+);", isa, "kIsaVersion").group(1)
    lines = INTRODUCTION.format(version=version).splitlines()
    body = first_match(r"^enum InstructionFlags.*?\{(.*?)^\};", isa, "enum InstructionFlags")
    for flag, value, comment in re.findall(r"(k\w+) = (\d+),\s*// (.*)", body.group(1)):
        lines.append(f"| `{flag}` | {value} | {comment} |")
    lines += ["", "## Instructions", "", "| opcode | instruction | segment | one for each |"]
    lines.append("| --- | --- | --- | --- |")
    known = opcodes()
    for number, (_, name) in enumerate(known):
        if name not in INSTRUCTIONS:
            raise SystemExit(f"tools/generate_isa_doc: {name} has no entry in tools/isa_table.py")
        doc = INSTRUCTIONS[name]
        lines.append(f"| {number} | [{name}](#{name}) | {doc.segment} | {doc.unit} |")
    lines.append("")
    for number, (enumerator, name) in enumerate(known):
        lines += section(number, enumerator, name, isa)
    lines += operand_lines(isa)
    lines += ["## Counters", "", "Families of a block (`src/lower/counter_map.hpp`):", ""]
    lines += ["| family | counters and meaning | signalled by | awaited by |"]
    lines.append("| --- | --- | --- | --- |")
    for family, (field, name) in families().items():
        signals, waits = users(family, signals=True), users(family, signals=False)
        lines.append(f"| {name} | {field.comment or '[row block]'} | {signals} | {waits} |")
    lines += ["", "## Buffers", "", "The heap of every GPU (`include/terrazzo/core/heap.hpp`):", ""]
    lines += ["| buffer | holds |", "| --- | --- |"]
    lines += [f"| `{name}` | {field.comment} |" for field, name in buffers().values()]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; 1 if they differ")
    args = parser.parse_args()
    generated = render()
    committed = DOCUMENT.read_text() if DOCUMENT.exists() else ""
    if generated == committed:
        return 0
    if args.check:
        lines = difflib.unified_diff(
            committed.splitlines(keepends=True),
            generated.splitlines(keepends=True),
            "committed",
            "generated",
        )
        sys.stdout.writelines(lines)
        sys.stdout.write("tools/generate_isa_doc writes the generated page.\n")
        return 1
    DOCUMENT.write_text(generated)
    sys.stdout.write(f"wrote {DOCUMENT}\n")
    return 0
