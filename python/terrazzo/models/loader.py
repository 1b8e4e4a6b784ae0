"""Opens a model by name: the one entry to this package."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from .checkpoint import Checkpoint, validate
from .config import ModelConfig
from .default_model import DEFAULT_MODEL, resolve_default_model
from .dummy import DummyCheckpoint
from .errors import CheckpointError
from .hf_folder import HfFolder, read_config
from .hub import resolve_model
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    from .gguf_file import GgufFile

__all__ = ["DEFAULT_MODEL", "LOAD_FORMATS", "OpenedModel", "open_checkpoint", "open_model"]

LOAD_FORMATS = ("auto", "dummy")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A checkpoint that has been validated, and its tokenizer."""

    path: Path
    checkpoint: Checkpoint
    tokenizer: Tokenizer

    @property
    def config(self) -> ModelConfig:
        """The checkpoint's configuration."""
        return self.checkpoint.config

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """All tokens that end a text: those of the configuration and of the tokenizer."""
        return tuple(dict.fromkeys(self.config.eos_token_ids + self.tokenizer.eos_token_ids))


def open_model(name: str | Path = DEFAULT_MODEL, load_format: str = "auto") -> OpenedModel:
    """Opens a folder, a `.gguf` file or a hub model; ModelError says what is wrong with it.

    With `load_format` "dummy" the folder needs no weights: they are random.
    """
    if load_format not in LOAD_FORMATS:
        raise ValueError(f"[loader] load_format: expected auto or dummy, got {load_format!r}")
    path = _resolve(name)
    checkpoint: HfFolder | GgufFile | DummyCheckpoint
    checkpoint = _dummy(path) if load_format == "dummy" else _open(path)
    if path.is_dir():
        tokenizer = Tokenizer.from_folder(path)
    else:
        tokenizer = Tokenizer.from_gguf(cast("GgufFile", checkpoint).header.metadata)
    if tokenizer.vocab_size > checkpoint.config.vocab_size:
        _log.warning(
            "%s: the tokenizer has %d tokens, the model only %d",
            path,
            tokenizer.vocab_size,
            checkpoint.config.vocab_size,
        )
    return OpenedModel(path, checkpoint, tokenizer)


def open_checkpoint(name: str | Path) -> Checkpoint:
    """Opens a model's weights without a tokenizer, which the folder may then lack."""
    return _open(_resolve(name))


def _resolve(name: str | Path) -> Path:
    if str(name) == DEFAULT_MODEL and not Path(name).is_dir():
        return resolve_default_model()
    return resolve_model(name)


def _dummy(path: Path) -> DummyCheckpoint:
    if not path.is_dir():
        raise CheckpointError(
            f"[loader] load_format dummy: expected a folder with config.json, got {path}"
        )
    return DummyCheckpoint(read_config(path))


def _open(path: Path) -> HfFolder | GgufFile:
    if path.is_dir():
        folder = HfFolder(path)
        validate(folder)
        return folder
    # The gguf package is imported only where a file needs it.
    from .gguf_file import GgufFile

    file = GgufFile(path)
    validate(file)
    return file
