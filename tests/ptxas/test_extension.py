"""The installed extension, where it contains the CUDA machine: it needs no driver to load."""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys

import pytest

core = pytest.importorskip("terrazzo._core", reason="needs the compiled extension")

pytestmark = [
    pytest.mark.t1_nvcc,
    pytest.mark.skipif(not core.cuda_built(), reason="the extension has no CUDA machine"),
]


def has_driver() -> bool:
    """Whether libcuda is on this machine."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def test_module_needs_no_cuda_library() -> None:
    listed = subprocess.run(
        ["readelf", "--dynamic", "--wide", core.__file__],
        capture_output=True,
        text=True,
        check=True,
    )
    needed = re.findall(r"\(NEEDED\).*\[(.*)\]", listed.stdout)
    assert any(name.startswith("libc.so") for name in needed)
    assert not [name for name in needed if "cuda" in name]


@pytest.mark.skipif(has_driver(), reason="this machine has a driver")
def test_command_works_without_a_driver() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "terrazzo", "info"], capture_output=True, text=True, check=True
    )
    assert re.search(r"^cuda: +built", shown.stdout, re.MULTILINE)
    assert re.search(r"^machines: +host$", shown.stdout, re.MULTILINE)
