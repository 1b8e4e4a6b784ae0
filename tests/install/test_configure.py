"""Configuring: what each CUDA mode does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT, run

pytestmark = pytest.mark.slow

KERNEL = """
__global__ void scale(float* out, float factor) { out[threadIdx.x] *= factor; }
void launch(float* out) { scale<<<1, 32>>>(out, 2.0F); }
"""

SUFFIXES = (".cu", ".cpp")

# A project of its own: small, so that its one kernel can be built.
PROJECT = f"""
cmake_minimum_required(VERSION 3.26)
project(with_cuda LANGUAGES CXX)
if(NOT Python_EXECUTABLE)
  set(Python_EXECUTABLE "{sys.executable}")
endif()
set(TERRAZZO_CUDA_ARCHITECTURES 90a-real)
include("{ROOT}/third_party/cmake/TerrazzoFindCUDA.cmake")
file(WRITE "${{CMAKE_BINARY_DIR}}/enabled" "${{TERRAZZO_CUDA_ENABLED}}")
if(TERRAZZO_CUDA_ENABLED)
  add_library(kernel STATIC kernel.cu)
endif()
"""


def configure(
    source: Path, build: Path, *defines: str, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run cmake's configure step; its output is in the result."""
    command = ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(build), *defines]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})


def flattened(result: subprocess.CompletedProcess[str]) -> str:
    """All output in one line: CMake wraps its messages."""
    return " ".join((result.stdout + result.stderr).split())


def compiled_files(*defines: str, build: Path) -> set[str]:
    """The sources that the project compiles, relative to src/."""
    flags = ("-DTERRAZZO_BUILD_PYTHON=OFF", "-DTERRAZZO_BUILD_TESTS=OFF", *defines)
    result = configure(ROOT, build, *flags, "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
    assert result.returncode == 0, flattened(result)
    commands = json.loads((build / "compile_commands.json").read_text())
    return {Path(command["file"]).relative_to(ROOT / "src").as_posix() for command in commands}


def cuda_sources() -> set[str]:
    """What `sources.cmake` names."""
    text = (ROOT / "src/machine/cuda/sources.cmake").read_text()
    return {
        f"machine/cuda/{name}" for name in re.findall(r"\b\w+\.(?:cu|cpp)$", text, re.MULTILINE)
    }


def test_off_compiles_the_stand_in_for_the_cuda_machine(tmp_path: Path) -> None:
    files = compiled_files("-DTERRAZZO_CUDA=off", build=tmp_path)
    assert {file for file in files if file.startswith("machine/cuda/")} == {
        "machine/cuda/no_cuda.cpp"
    }


@pytest.mark.t1_nvcc
def test_on_compiles_the_cuda_machine(tmp_path: Path) -> None:
    files = compiled_files("-DTERRAZZO_CUDA=on", build=tmp_path)
    assert {file for file in files if file.startswith("machine/cuda/")} == cuda_sources()
    on_disk = [path for path in (ROOT / "src/machine/cuda").iterdir() if path.suffix in SUFFIXES]
    assert {f"machine/cuda/{path.name}" for path in on_disk} == {
        *cuda_sources(),
        "machine/cuda/no_cuda.cpp",
    }


def test_sanitizer_with_the_extension_is_an_error(tmp_path: Path) -> None:
    python = f"-DPython_EXECUTABLE={sys.executable}"
    result = configure(ROOT, tmp_path, "-DTERRAZZO_SANITIZE=thread", python)
    assert result.returncode != 0
    assert "needs TERRAZZO_BUILD_PYTHON=OFF" in flattened(result)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one kernel."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(PROJECT)
    (source / "kernel.cu").write_text(KERNEL)
    return source


def test_off_does_not_look_for_nvcc(project: Path, tmp_path: Path) -> None:
    result = configure(project, tmp_path / "build", "-DTERRAZZO_CUDA=off")
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "build/enabled").read_text() == "FALSE"


def test_unknown_mode_is_an_error(project: Path, tmp_path: Path) -> None:
    result = configure(project, tmp_path / "build", "-DTERRAZZO_CUDA=perhaps")
    assert result.returncode != 0
    assert "expected auto, on, off or pip" in flattened(result)


@pytest.mark.t1_nvcc
def test_nvcc_of_the_system_compiles_a_kernel(project: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    result = configure(project, build, "-DTERRAZZO_CUDA=auto")
    assert result.returncode == 0, flattened(result)
    assert (build / "enabled").read_text() == "TRUE"
    assert "code=[sm_90a]" in run("cmake", "--build", build, "--verbose")


@pytest.mark.t1_nvcc
def test_pip_takes_nvcc_from_the_import_path(project: Path, tmp_path: Path) -> None:
    """The system's toolkit in the shape of NVIDIA's wheels, which have no lib64/."""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    assert nvcc is not None
    dry_run = subprocess.run([nvcc, "--dryrun", "x.cu"], capture_output=True, text=True).stderr
    (top,) = re.findall(r"^#\$ TOP=(.*)$", dry_run, re.MULTILINE)
    wheels = tmp_path / "site/nvidia/cu13"
    wheels.mkdir(parents=True)
    for name in ("bin", "include", "nvvm"):
        (wheels / name).symlink_to(Path(top, name).resolve())
    (wheels / "lib").symlink_to(Path(top, "lib64").resolve())

    build = tmp_path / "build"
    env = {"PYTHONPATH": str(tmp_path / "site"), "CUDACXX": ""}
    result = configure(project, build, "-DTERRAZZO_CUDA=pip", **env)
    assert result.returncode == 0, flattened(result)
    assert f"{build}/cuda-from-pip/bin/nvcc" in run("cmake", "--build", build, "--verbose")


def test_pip_without_the_wheels_is_an_error(project: Path, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    python.chmod(0o755)
    defines = ("-DTERRAZZO_CUDA=pip", f"-DPython_EXECUTABLE={python}")
    result = configure(project, tmp_path / "build", *defines, CUDACXX="")
    assert result.returncode != 0
    assert "terrazzo.cuda=pip, but no nvcc was found" in flattened(result)


def test_pip_toolkit_is_found_on_the_import_path(tmp_path: Path) -> None:
    for version in ("cu12", "cu13"):
        nvcc = tmp_path / "nvidia" / version / "bin" / "nvcc"
        nvcc.parent.mkdir(parents=True)
        nvcc.touch()
    script = ROOT / "third_party/cmake/find_pip_cuda.py"
    code = f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); " + (
        f"runpy.run_path({str(script)!r}, run_name='__main__')"
    )
    assert run(sys.executable, "-c", code) == str(tmp_path / "nvidia/cu13")
