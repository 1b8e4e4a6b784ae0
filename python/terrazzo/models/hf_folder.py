"""A model in a folder with Hugging Face layout: `config.json` and safetensors files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from .config import ModelConfig
from .errors import CheckpointError
from .hf_config import config_from_hf_json
from .json_file import read_json_object
from .safetensors_file import SafetensorsFile

_SINGLE_FILE = "model.safetensors"
_INDEX_FILE = "model.safetensors.index.json"


class HfFolder:
    """Checkpoint in a folder; headers are read at once, weights when they are asked for."""

    def __init__(self, path: Path) -> None:
        if not path.is_dir():
            raise CheckpointError(f"[checkpoint] {path} is not a folder")
        self.path = path
        self._config = read_config(path)
        self._files = _open_files(path)

    @property
    def config(self) -> ModelConfig:
        """What `config.json` and `generation_config.json` say."""
        return self._config

    def names(self) -> Sequence[str]:
        """All tensors of all files."""
        return tuple(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape in the file's header."""
        return self._file_of(name).entries[name].shape

    def tensor(self, name: str) -> npt.NDArray[np.uint16]:
        """bfloat16 bits; float16 and float32 sources are rounded."""
        return self._file_of(name).tensor(name)

    def _file_of(self, name: str) -> SafetensorsFile:
        file = self._files.get(name)
        if file is None:
            raise CheckpointError(f"[checkpoint] no tensor {name} in {self.path}")
        return file


def read_config(folder: Path) -> ModelConfig:
    """What `config.json` and `generation_config.json` say."""
    path = folder / "config.json"
    if not path.is_file():
        raise CheckpointError(
            f"[checkpoint] {path} is missing; expected a folder with config.json, "
            "*.safetensors and tokenizer.json, or a .gguf file"
        )
    generation = folder / "generation_config.json"
    return config_from_hf_json(
        read_json_object(path), read_json_object(generation) if generation.is_file() else None
    )


def _open_files(folder: Path) -> dict[str, SafetensorsFile]:
    """The file of each tensor."""
    if (folder / _INDEX_FILE).is_file():
        return _open_shards(folder)
    if (folder / _SINGLE_FILE).is_file():
        file = SafetensorsFile(folder / _SINGLE_FILE)
        return dict.fromkeys(file.entries, file)
    if any(folder.glob("*.safetensors")):
        raise CheckpointError(
            f"[checkpoint] {folder / _INDEX_FILE} is missing beside the weight shards; "
            "download the index as well"
        )
    if any(folder.glob("*.bin")) or any(folder.glob("*.pth")):
        raise CheckpointError(
            f"[checkpoint] {folder} has only pickled weights (.bin or .pth), which can run code "
            f"when they are read; expected {_SINGLE_FILE}: convert them to safetensors"
        )
    raise CheckpointError(
        f"[checkpoint] {folder / _SINGLE_FILE} is missing; download the model again"
    )


def _open_shards(folder: Path) -> dict[str, SafetensorsFile]:
    index_path = folder / _INDEX_FILE
    weight_map = read_json_object(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"[checkpoint] {index_path}: expected an object weight_map, got {type(weight_map)}"
        )
    shards: dict[str, SafetensorsFile] = {}
    files: dict[str, SafetensorsFile] = {}
    for tensor, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(
                f"[checkpoint] {index_path}: expected a file name for {tensor}, got {shard!r}"
            )
        if shard not in shards:
            if not (folder / shard).is_file():
                raise CheckpointError(
                    f"[checkpoint] {folder / shard} is missing ({index_path.name} names it); "
                    "download this shard"
                )
            shards[shard] = SafetensorsFile(folder / shard)
        if tensor not in shards[shard].entries:
            raise CheckpointError(
                f"[checkpoint] {index_path} puts {tensor} into {shard}, which does not have it; "
                "download the index and its shards again, from one revision"
            )
        files[tensor] = shards[shard]
    return files
