"""Names become paths, or errors that say what to do."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path

import pytest
from huggingface_hub import constants
from unit.models.fake_hub import fake_hub

from terrazzo.models import hub
from terrazzo.models.hub import ModelNotFoundError, resolve_model

NAME = "someone/some-model"


def test_a_folder_is_itself(tmp_path: Path) -> None:
    assert resolve_model(tmp_path) == tmp_path
    assert resolve_model(str(tmp_path)) == tmp_path


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert resolve_model("~/model") == tmp_path / "model"


def test_a_gguf_file_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    with pytest.raises(ModelNotFoundError, match=r"no such file: .*x\.gguf"):
        resolve_model(path)
    path.write_bytes(b"GGUF")
    assert resolve_model(path) == path


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match="is a file of unknown kind"):
        resolve_model(tmp_path / "x.bin")


@pytest.mark.parametrize("name", ["", "/no/such", "./no", "../no", "~/no", "a/b/c", "a b", "a\\b"])
def test_paths_that_do_not_exist_are_not_looked_up(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(name: str) -> Path:
        raise AssertionError(f"looked up {name}")

    monkeypatch.setattr(hub, "download_from_hub", look_up)
    with pytest.raises(ModelNotFoundError, match=r"no such folder|expected the name"):
        resolve_model(name)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return tmp_path / "cache"


@pytest.fixture
def published(small_llama: Path, tmp_path: Path) -> Path:
    """What the hub holds: the model, and files that nobody needs."""
    folder = Path(shutil.copytree(small_llama, tmp_path / "published"))
    for name in ("pytorch_model.bin", "consolidated.safetensors", "README.md"):
        (folder / name).write_text("not needed")
    return folder


def use(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def test_a_hub_name_is_downloaded_and_then_cached(
    cache: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_hub(NAME, published) as endpoint:
        use(endpoint, monkeypatch)
        folder = resolve_model(NAME)
    needed = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {file.name for file in folder.iterdir()} - {"generation_config.json"} == needed
    for name in needed:
        assert (folder / name).read_bytes() == (published / name).read_bytes()
    assert resolve_model(NAME) == folder  # the hub is gone


def assert_out_of_reach(within_s: float) -> None:
    start = time.monotonic()
    with pytest.raises(ModelNotFoundError, match=f"{NAME} is no folder.*the hub cannot be reached"):
        resolve_model(NAME)
    assert time.monotonic() - start < within_s


def test_a_hub_that_refuses_connections(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    use(f"http://127.0.0.1:{port}", monkeypatch)
    assert_out_of_reach(within_s=5.0)


def test_a_hub_that_never_answers(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "_TIMEOUT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        use(f"http://127.0.0.1:{server.getsockname()[1]}", monkeypatch)
        assert_out_of_reach(within_s=5.0)


def test_a_hub_switched_off(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_out_of_reach(within_s=5.0)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ((404, "RepoNotFound"), "the hub has no model someone/some-model, or it is private"),
        ((403, "GatedRepo"), "needs an agreement: accept its terms"),
    ],
)
def test_answers_of_the_hub_are_told(
    cache: Path,
    published: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: tuple[int, str],
    message: str,
) -> None:
    with fake_hub(NAME, published, error) as endpoint:
        use(endpoint, monkeypatch)
        with pytest.raises(ModelNotFoundError, match=message):
            resolve_model(NAME)


def test_a_name_that_the_hub_forbids(cache: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="is not a hub name"):
        resolve_model("some..one/--model")
