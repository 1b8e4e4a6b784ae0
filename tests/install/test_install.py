"""What a user gets from `pip install`: the command, the extension, the headers, a CMake package."""

from __future__ import annotations

import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest

from .conftest import ROOT, Installation, run

pytestmark = pytest.mark.slow


def test_wheel_holds_what_it_should(installation: Installation) -> None:
    names = zipfile.ZipFile(installation.wheel).namelist()
    for name in ("__init__.py", "py.typed", "_core.pyi", "include/terrazzo/version.hpp",
                 "share/cmake/terrazzo/terrazzoConfig.cmake"):  # fmt: skip
        assert f"terrazzo/{name}" in names
    assert len([name for name in names if name.startswith("terrazzo/_core.")]) == 2
    headers = {p.relative_to(ROOT).as_posix() for p in (ROOT / "include").rglob("*.hpp")}
    assert {f"terrazzo/{header}" for header in headers} <= set(names)
    allowed = ("terrazzo/", "terrazzo-")
    assert not [name for name in names if not name.startswith(allowed)]


def test_sdist_has_all_sources_and_no_build_products(installation: Installation) -> None:
    with tarfile.open(installation.sdist) as archive:
        names = [name.split("/", 1)[1] for name in archive.getnames() if "/" in name]
    assert {"pyproject.toml", "CMakeLists.txt", "tests/conftest.py", "tools/test"} <= set(names)
    folders = (ROOT / folder for folder in ("cmake", "include", "src", "third_party"))
    sources = {p for folder in folders for p in folder.rglob("*.*") if "__pycache__" not in p.parts}
    assert {p.relative_to(ROOT).as_posix() for p in sources if p.is_file()} <= set(names)
    products = (".so", ".o", ".a", ".pyc")
    assert not [name for name in names if name.startswith("build/") or name.endswith(products)]


def test_command_says_what_was_built(installation: Installation) -> None:
    assert "host" in installation.terrazzo("info")
    code = "import terrazzo, terrazzo._core as c; print(terrazzo.__file__, c.cuda_built())"
    where, cuda = run(installation.bin / "python", "-c", code).split()
    assert Path(where).is_relative_to(installation.bin.parent)
    assert cuda == "False"  # the fixture asks for a build without


def test_config_needs_no_extension(installation: Installation) -> None:
    code = (
        "import sys, runpy; sys.argv = ['terrazzo', 'config', '--cmake-dir'];"
        "sys.modules['terrazzo._core'] = None; runpy.run_module('terrazzo', run_name='__main__')"
    )
    shown = run(installation.bin / "python", "-c", code).strip()
    assert shown == installation.terrazzo("config", "--cmake-dir").strip()


def test_consumer_finds_the_headers_with_cmake(installation: Installation, tmp_path: Path) -> None:
    source = shutil.copytree(ROOT / "tests/install/consumer", tmp_path / "consumer")
    cmake_dir = installation.terrazzo("config", "--cmake-dir").strip()
    build = tmp_path / "build"
    run("cmake", "-S", source, "-B", build, f"-Dterrazzo_DIR={cmake_dir}")
    run("cmake", "--build", build)
    version = run(installation.bin / "python", "-c", "import terrazzo; print(terrazzo.__version__)")
    assert run(build / "consumer") == version


def test_consumer_finds_the_headers_with_flags(installation: Installation, tmp_path: Path) -> None:
    flags = installation.terrazzo("config", "--includes").split()
    source = ROOT / "tests/install/consumer/main.cpp"
    run("g++", "-std=c++20", *flags, source, "-o", tmp_path / "consumer")
    assert run(tmp_path / "consumer").count(".") == 2
