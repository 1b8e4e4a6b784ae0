"""From a model's name to files on this machine: a folder, a `.gguf` file, or a name on the hub."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from .errors import ModelNotFoundError

__all__ = ["ModelNotFoundError", "download_from_hub", "resolve_model"]

_log = logging.getLogger(__name__)

# Weights of the Transformers layout only: repositories often hold the same weights twice.
_NEEDED_FILES = (
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_TIMEOUT_S = 5.0


def resolve_model(name: str | Path) -> Path:
    """The folder or `.gguf` file of a model; a hub name is downloaded, or taken from its cache."""
    text = str(name)
    if not text.strip():
        raise ModelNotFoundError("[model] expected the name of a model, got an empty one")
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelNotFoundError(f"[model] no such file: {path}")
        return path
    if path.exists():
        raise ModelNotFoundError(
            f"[model] {path} is a file of unknown kind; expected a folder, a .gguf file or a hub "
            "name"
        )
    if text.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(text):
        raise ModelNotFoundError(
            f"[model] no such folder: {text} (and it is no hub name, which reads owner/model)"
        )
    return download_from_hub(text)


def download_from_hub(name: str) -> Path:
    """The folder of a hub model, downloaded if the hub can be reached; ModelNotFoundError if not.

    A hub that does not answer within seconds counts as out of reach.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    patterns = list(_NEEDED_FILES)
    try:
        # The download has no time limit of its own for the first request.
        HfApi().model_info(name, timeout=_TIMEOUT_S)
    except GatedRepoError as error:
        raise ModelNotFoundError(
            f"[model] {name} needs an agreement: accept its terms on https://huggingface.co/{name} "
            "and log in with `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"[model] the hub has no model {name}, or it is private: check the name, or log in "
            "with `hf auth login`"
        ) from error
    except HFValidationError as error:
        raise ModelNotFoundError(f"[model] {name} is not a hub name: {error}") from error
    except Exception as error:  # the hub's HTTP library, and so its errors, differ by version
        try:
            folder = snapshot_download(name, allow_patterns=patterns, local_files_only=True)
        except LocalEntryNotFoundError:
            raise ModelNotFoundError(
                f"[model] {name} is no folder here, it is not in the hub's cache, and the hub "
                f"cannot be reached ({type(error).__name__}: {error}): check the network, or give "
                "the path of a folder or .gguf file"
            ) from error
        _log.info("hub out of reach (%s); using the cached copy of %s", error, name)
        return Path(folder)
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        raise ModelNotFoundError(
            f"[model] the download of {name} broke off ({type(error).__name__}: {error}): try "
            "again; what has arrived is kept"
        ) from error
