"""The output file of a batch: lines that are complete stay, whatever happens to the process."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LINE_START = b'{"id": "batch_req_'
SYNC_SECONDS = 1.0  # most work that a power failure can cost


class Journal:
    """Appends lines to a file and knows those that it has already.

    A line is written by one append. A process that is killed leaves at most one torn line, at the
    end; opening the file again cuts that off, and what it said is computed again. Every second, and
    at the end, the file is forced to the disk; behind that point a power failure may leave zeros,
    which are cut off too. A lock keeps out a second process. Raises ValueError for a file that is
    no such journal, OSError where it cannot be written.
    """

    def __init__(self, path: Path, *, sync_seconds: float = SYNC_SECONDS) -> None:
        self._path = path
        self._sync_seconds = sync_seconds
        is_new = not path.exists()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock()
            self.done: dict[str, str | None] = {}  # id -> custom_id of the lines that are there
            self._end = self._recover()
            if is_new:
                _sync_folder(path.parent)
        except BaseException:
            os.close(self._file)
            raise
        self._last_sync = time.monotonic()
        self._is_dirty = False

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.sync()
        finally:
            os.close(self._file)

    def append(self, line: Mapping[str, Any]) -> None:
        """Write a line; after an OSError (a full disk, say) the file ends where it did before."""
        data = _json_line(line)
        try:
            _write_all(self._file, data)
        except OSError as error:
            self._cut()
            raise OSError(
                error.errno,
                f"{os.strerror(error.errno or 0)}: {self._path}; all lines "
                "up to here are complete, the same command goes on from there",
            ) from error
        self._end += len(data)
        self._is_dirty = True
        if time.monotonic() - self._last_sync >= self._sync_seconds:
            self.sync()

    def sync(self) -> None:
        """Force what was written to the disk."""
        if self._is_dirty:
            os.fsync(self._file)
            self._is_dirty = False
        self._last_sync = time.monotonic()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{self._path}: another process is writing to it") from error

    def _recover(self) -> int:
        """Read the lines and cut off a damaged end; returns where the file ends."""
        end = 0
        with open(os.dup(self._file), "rb") as file:
            file.seek(0)
            for number, line in enumerate(file, start=1):
                if _is_torn(line):
                    self._end = end
                    self._cut()
                    break
                try:
                    entry = json.loads(line)
                    self.done[entry["id"]] = entry["custom_id"]
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{self._path}, line {number}: expected a line that `terrazzo batch` "
                        "wrote; is this another file?"
                    ) from error
                end += len(line)
        return end

    def _cut(self) -> None:
        try:
            os.ftruncate(self._file, self._end)
        except OSError:
            return  # then it is cut when the file is opened again
        os.fsync(self._file)


def _is_torn(line: bytes) -> bool:
    """Whether a line is the beginning of one of ours: a file of somebody else is never cut."""
    is_whole = line.endswith(b"\n") and b"\0" not in line
    begun = line.split(b"\0")[0].rstrip(b"\n")[: len(LINE_START)]
    return not is_whole and LINE_START.startswith(begun)


def _json_line(line: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair in a custom_id
        return json.dumps(line).encode() + b"\n"


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]


def _sync_folder(folder: Path) -> None:
    """Force the file's name to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
