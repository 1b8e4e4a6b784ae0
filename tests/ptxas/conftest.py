"""The kernels of a build, read once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest
from ptxas.kernel_report import (
    OBJECT_FOLDER,
    CompilerReport,
    MachineCode,
    build_folder,
    cuobjdump,
)


@dataclass(frozen=True, slots=True)
class Kernel:
    """One compiled file of TERRAZZO_CUDA_KERNELS."""

    file: str
    report: CompilerReport
    code: MachineCode
    resources: str  # cuobjdump --dump-resource-usage


@cache
def _read(file: str) -> Kernel:
    folder = build_folder()
    if folder is None:
        pytest.skip("no build with the CUDA machine in build/")
    settings = (folder / "CMakeCache.txt").read_text()
    if "TERRAZZO_CUDA:STRING=off\n" in settings:
        pytest.skip(f"{folder} is a build without the CUDA machine")
    compiled = folder / OBJECT_FOLDER / f"{file}.o"
    assert compiled.is_file(), f"{compiled} was not built"
    return Kernel(
        file=file,
        report=CompilerReport.parse(compiled.with_name(f"{compiled.name}.log").read_text()),
        code=MachineCode(cuobjdump("-sass", compiled)),
        resources=cuobjdump("--dump-resource-usage", compiled),
    )


@pytest.fixture(scope="session")
def read_kernel() -> Callable[[str], Kernel]:
    """The kernel of a file; skips where the build was made without the CUDA machine."""
    return _read
