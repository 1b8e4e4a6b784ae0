"""Configuring: what each CUDA mode does, with and without nvcc and CUDA sources."""

from __future__ import annotations

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

# A project of its own, because it asks for the module with a CUDA source present.
PROJECT = f"""
cmake_minimum_required(VERSION 3.26)
project(with_cuda LANGUAGES CXX)
set(Python_EXECUTABLE "{sys.executable}")
set(TERRAZZO_CUDA_ARCHITECTURES 90a-real)
include("{ROOT}/third_party/cmake/TerrazzoFindCUDA.cmake")
file(WRITE "${{CMAKE_BINARY_DIR}}/enabled" "${{TERRAZZO_CUDA_ENABLED}}")
if(TERRAZZO_CUDA_ENABLED)
  add_library(kernel STATIC kernel.cu)
endif()
"""


def configure(source: Path, build: Path, *defines: str) -> subprocess.CompletedProcess[str]:
    """Run cmake's configure step; its output is in the result."""
    command = ["cmake", "-G", "Ninja", "-S", str(source), "-B", str(build), *defines]
    return subprocess.run(command, capture_output=True, text=True)


def flattened(result: subprocess.CompletedProcess[str]) -> str:
    """All output in one line: CMake wraps its messages."""
    return " ".join((result.stdout + result.stderr).split())


@pytest.mark.parametrize("mode", ["on", "pip", "maybe"])
def test_asking_for_cuda_without_its_sources_is_an_error(tmp_path: Path, mode: str) -> None:
    sources = (ROOT / "src/machine/cuda/sources.cmake").read_text()
    if "set(TERRAZZO_CUDA_SOURCES)" not in sources:
        pytest.skip("this version has CUDA sources")
    result = configure(ROOT, tmp_path, f"-DTERRAZZO_CUDA={mode}", "-DTERRAZZO_BUILD_PYTHON=OFF")
    assert result.returncode != 0
    assert f"terrazzo.cuda={mode}" in flattened(result)


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
