"""A wheel built from the sdist, installed into a virtual environment of its own."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*command: str | Path, cwd: Path | None = None, **env: str) -> str:
    """Standard output of the command; its output in full where it fails."""
    words = [str(word) for word in command]
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(words, cwd=cwd, env={**clean, **env}, capture_output=True, text=True)
    assert result.returncode == 0, f"{words}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@dataclass(frozen=True, slots=True)
class Installation:
    """An environment with the package in it, and what it was installed from."""

    sdist: Path
    wheel: Path
    bin: Path

    def terrazzo(self, *arguments: str) -> str:
        """Run the installed command."""
        return run(self.bin / "terrazzo", *arguments, cwd=self.wheel.parent)


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """Build sdist, then a wheel from it, then install that; minutes without a compiler cache."""
    folder = tmp_path_factory.mktemp("install")
    build = (
        "import sys; from scikit_build_core.build import build_sdist as b; print(b(sys.argv[1]))"
    )
    sdist = folder / run(sys.executable, "-c", build, folder, cwd=ROOT).splitlines()[-1]

    run(sys.executable, "-m", "tarfile", "-e", sdist, folder / "source")
    (source,) = (folder / "source").iterdir()
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    wheels = folder / "wheels"
    # The same flags as in the test command's own build, so that a compiler cache has it all; but
    # without the kernels, which take longest: that build has compiled them once already.
    run(*pip, "wheel", "--no-build-isolation", "--no-deps", "-w", wheels,
        "-C", "cmake.define.TERRAZZO_WERROR=ON", source, CCACHE_BASEDIR=str(source),
        TERRAZZO_CUDA="off")  # fmt: skip
    (wheel,) = wheels.iterdir()

    # The package itself comes from the wheel; its dependencies from the environment of the tests.
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
    python = folder / "venv" / "bin" / "python"
    run(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel)
    purelib = Path(
        run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )
    dependencies = [sysconfig.get_path("purelib"), *site.getsitepackages()]
    (purelib / "dependencies.pth").write_text("\n".join(dict.fromkeys(dependencies)))
    return Installation(sdist=sdist, wheel=wheel, bin=python.parent)
