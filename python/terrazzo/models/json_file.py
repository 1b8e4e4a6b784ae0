"""Reads a JSON file that must hold an object."""

from __future__ import annotations

import json
from pathlib import Path

from .errors import CheckpointError


def read_json_object(path: Path) -> dict[str, object]:
    """The object in `path`; CheckpointError names the file if it cannot be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"[checkpoint] cannot read {path}: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(
            f"[checkpoint] {path}: expected a JSON object, got {type(value).__name__}"
        )
    return value
