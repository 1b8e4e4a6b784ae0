"""What the compiler said of a kernel, and the machine code that it made.

Both are taken from a build that is there: `cmake/keep_report.sh` left the report beside each
object, and cuobjdump (from NVIDIA's wheels, with the nvdisasm that it calls) reads the object.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OBJECT_FOLDER = "src/CMakeFiles/terrazzo_runtime.dir/machine/cuda"

# Opcode with its modifiers, after the address and an optional predicate.
INSTRUCTION = re.compile(
    r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.a-z]*)([^;]*);", re.MULTILINE
)


def kernel_files() -> list[str]:
    """The files of TERRAZZO_CUDA_KERNELS, as `sources.cmake` lists them."""
    text = (ROOT / "src/machine/cuda/sources.cmake").read_text()
    match = re.search(r"set\(TERRAZZO_CUDA_KERNELS([^)]*)\)", text)
    assert match, "sources.cmake sets no TERRAZZO_CUDA_KERNELS"
    return match.group(1).split()


@dataclass(frozen=True, slots=True)
class CompilerReport:
    """The log of one kernel file's compilation."""

    registers: int  # of a thread at launch; the largest of the file's kernels
    stack_bytes: int  # of a thread; the largest of the file's kernels
    spill_store_bytes: int  # all functions together
    spill_load_bytes: int
    notes: frozenset[str]  # numbers of ptxas's advisories
    warnings: list[str]
    seconds: int

    @classmethod
    def parse(cls, log: str) -> CompilerReport:
        """Read a log; ValueError where it lacks ptxas's report of a kernel."""
        registers = re.findall(r"\bUsed (\d+) registers", log)
        stacks = re.findall(r"(\d+) bytes cumulative stack size", log)  # absent where there is none
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
        seconds = re.search(r"^seconds: (\d+)$", log, re.MULTILINE)
        if not registers or not spills or seconds is None:
            raise ValueError(f"no complete report of a kernel in:\n{log}")
        return cls(
            registers=max(map(int, registers)),
            stack_bytes=max(map(int, stacks), default=0),
            spill_store_bytes=sum(int(stores) for stores, _ in spills),
            spill_load_bytes=sum(int(loads) for _, loads in spills),
            notes=frozenset(re.findall(r"^ptxas \w+ *: *\((C\d+)\)", log, re.MULTILINE)),
            warnings=[line for line in log.splitlines() if re.search(r"\bwarning\b", line)],
            seconds=int(seconds.group(1)),
        )


class MachineCode:
    """The disassembled code of an object."""

    def __init__(self, sass: str) -> None:
        self._instructions: list[tuple[str, str]] = INSTRUCTION.findall(sass)

    @cached_property
    def opcodes(self) -> Counter[str]:
        """How often each opcode stands in the code, modifiers included: `LDG.E.64`."""
        return Counter(opcode for opcode, _ in self._instructions)

    def count(self, pattern: str) -> int:
        """Instructions whose whole opcode matches the pattern."""
        return sum(
            number for opcode, number in self.opcodes.items() if re.fullmatch(pattern, opcode)
        )

    def operands(self, pattern: str) -> list[str]:
        """The operands of these instructions, in the order of the code."""
        return [
            text.strip() for opcode, text in self._instructions if re.fullmatch(pattern, opcode)
        ]

    @cached_property
    def highest_register(self) -> int:
        """The largest N of any register RN that the code names."""
        names = (re.findall(r"\bR(\d+)\b", operands) for _, operands in self._instructions)
        return max((int(name) for found in names for name in found), default=0)


def tool(name: str) -> Path:
    """A program of the CUDA toolkit: from NVIDIA's wheels, else from PATH."""
    for entry in sys.path:
        for found in sorted(Path(entry or ".").glob(f"nvidia/cu[0-9]*/bin/{name}"), reverse=True):
            return found
    on_path = shutil.which(name)
    if on_path is None:
        raise FileNotFoundError(f"{name} is missing: pip install --group test")
    return Path(on_path)


def cuobjdump(*arguments: str | Path) -> str:
    """What cuobjdump prints."""
    path = os.pathsep.join((str(tool("nvdisasm").parent), os.environ["PATH"]))
    command = [str(tool("cuobjdump")), *map(str, arguments)]
    result = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build_folder() -> Path | None:
    """TERRAZZO_BUILD_DIR, else the build in build/ that compiled a kernel last, else None."""
    named = os.environ.get("TERRAZZO_BUILD_DIR")
    if named:
        return ROOT / named
    logs = ROOT.glob(f"build/*/{OBJECT_FOLDER}/*.cu.o.log")
    newest = max(logs, key=lambda log: log.stat().st_mtime, default=None)
    return None if newest is None else newest.parents[len(Path(OBJECT_FOLDER).parts)]
