"""`terrazzo config`: what a C++ build needs to know; works without the compiled extension."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import terrazzo

from .options import Subparsers

# The ELF section that nvcc puts device code into.
DEVICE_CODE_SECTION = b".nv_fatbin"


def add_parser(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "config", help="show paths for C++ builds", description="Show paths for C++ builds."
    )
    group = parser.add_mutually_exclusive_group(required=True)
    for option, function, help_text in (
        ("--includes", _includes, "compiler flags for the headers"),
        ("--include-dir", _include_dir, "folder of the headers"),
        ("--cmake-dir", _cmake_dir, "folder of the CMake package, for terrazzo_DIR"),
        ("--cuda", _cuda, "on or off: whether the extension was built with CUDA"),
    ):
        group.add_argument(
            option, dest="show", action="store_const", const=function, help=help_text
        )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the one thing that was asked for."""
    print(options.show())
    return 0


def _include_dir() -> str:
    return str(terrazzo.include_dir())


def _includes() -> str:
    return f"-I{terrazzo.include_dir()}"


def _cmake_dir() -> str:
    # An editable install has two folders: the sources, and what CMake installed beside them.
    for folder in terrazzo.__path__:
        cmake_dir = Path(folder) / "share" / "cmake" / "terrazzo"
        if (cmake_dir / "terrazzoConfig.cmake").is_file():
            return str(cmake_dir)
    raise FileNotFoundError(
        f"expected share/cmake/terrazzo/terrazzoConfig.cmake in one of {list(terrazzo.__path__)}; "
        "install the package with pip"
    )


def _cuda() -> str:
    spec = find_spec("terrazzo._core")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the extension terrazzo._core is not built; install with pip")
    return "on" if DEVICE_CODE_SECTION in Path(spec.origin).read_bytes() else "off"
