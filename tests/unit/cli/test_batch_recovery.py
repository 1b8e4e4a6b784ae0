"""A batch that is killed, runs out of disk or finds a damaged file: each line once, in the end."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from unit.cli.test_batch import line

from terrazzo.cli import batch_journal
from terrazzo.cli.batch_journal import Journal

TESTS = Path(__file__).parents[2]
SCRIPT = Path(__file__).parent / "run_fake_batch.py"
NUM_LINES = 60
NUM_KILLS = 20


def command(folder: Path, step_seconds: float) -> list[str]:
    files = [str(folder / "in.jsonl"), "-o", str(folder / "out.jsonl")]
    return [sys.executable, str(SCRIPT), *files, "--no-progress", str(step_seconds)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(TESTS)}


def write_input(folder: Path) -> Path:
    """Requests of all lengths, some of them bad, sampled without seeds."""
    folder.mkdir()
    rng = random.Random(1)
    lines = [
        line(f"id {i}", prompt="a" * rng.randint(1, 30), max_tokens=rng.randint(1, 40), n=1 + i % 2)
        if i % 10
        else line(f"id {i}", prompt="", max_tokens=3)
        for i in range(NUM_LINES)
    ]
    (folder / "in.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def answers(folder: Path) -> dict[str, Any]:
    """By id, without the time; every line must be whole and there once."""
    found: dict[str, Any] = {}
    for text in (folder / "out.jsonl").read_text().splitlines():
        entry = json.loads(text)
        assert entry["id"] not in found
        if entry["response"] is not None:
            entry["response"]["body"].pop("created", None)
        found[entry["id"]] = entry
    return found


def finish(folder: Path, step_seconds: float = 0.0) -> dict[str, Any]:
    subprocess.run(command(folder, step_seconds), env=environment(), check=True)
    return answers(folder)


def test_killed_twenty_times(tmp_path: Path) -> None:
    undisturbed = finish(write_input(tmp_path / "undisturbed"))
    assert len(undisturbed) == NUM_LINES
    folder = write_input(tmp_path / "killed")
    rng = random.Random(2)
    num_seen = [0]
    for _ in range(NUM_KILLS):
        process = subprocess.Popen(command(folder, 0.02), env=environment())
        # Not before it writes: most of the time is the start of Python.
        deadline, size = time.monotonic() + 60, len(read(folder))
        while len(read(folder)) == size and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.05))
        process.send_signal(signal.SIGKILL)
        process.wait()
        num_seen.append(len(read(folder).splitlines()))
        if rng.random() < 0.5:  # as if the kill had come in the middle of a line
            text = read(folder)
            (folder / "out.jsonl").write_bytes(text[: len(text) - rng.randint(1, 100)])
    assert num_seen[-1] < NUM_LINES, "it was never interrupted at the end"
    assert max(num_seen) > 3
    assert finish(folder) == undisturbed


def read(folder: Path) -> bytes:
    path = folder / "out.jsonl"
    return path.read_bytes() if path.exists() else b""


def test_a_full_disk(tmp_path: Path) -> None:
    """A limit on the file's size stands for it: writes beyond fail, partly done."""
    folder = write_input(tmp_path / "full")
    undisturbed = finish(write_input(tmp_path / "undisturbed"))
    limit = len(read(tmp_path / "undisturbed")) // 2

    def with_limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    failed = subprocess.run(
        command(folder, 0.0),
        env={**environment(), "PYTHONDONTWRITEBYTECODE": "1"},
        preexec_fn=with_limit,
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 2
    assert "all lines up to here are complete, the same command goes on" in failed.stderr
    assert read(folder).endswith(b"\n")
    assert 0 < len(answers(folder)) < NUM_LINES
    assert finish(folder) == undisturbed


ENTRY = {"id": "batch_req_1", "custom_id": "a", "response": None, "error": None}
OTHER = {**ENTRY, "id": "batch_req_2"}


def test_a_write_that_fails_in_the_middle_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.jsonl"
    write = os.write

    def write_a_part(file: int, data: Any) -> int:
        if path.stat().st_size > len(json.dumps(ENTRY)) + 10:
            raise OSError(errno.ENOSPC, "no space")
        return write(file, bytes(data)[:20])

    with Journal(path) as journal:
        journal.append(ENTRY)
        with monkeypatch.context() as patch:
            patch.setattr(batch_journal.os, "write", write_a_part)
            with pytest.raises(OSError, match="No space left on device"):
                journal.append(OTHER)
        assert path.read_text() == json.dumps(ENTRY) + "\n"
        journal.append(OTHER)
    with Journal(path) as journal:
        assert journal.done == {"batch_req_1": "a", "batch_req_2": "a"}


@pytest.mark.parametrize("damage", ['{"id": "batch_r', "\0\0\0", '{"id": "batch_req_9", \0\0\0\n'])
def test_a_damaged_end_is_cut_off(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(json.dumps(ENTRY) + "\n" + damage)
    with Journal(path) as journal:
        assert list(journal.done) == ["batch_req_1"]
        journal.append(OTHER)
    assert path.read_text() == f"{json.dumps(ENTRY)}\n{json.dumps(OTHER)}\n"


@pytest.mark.parametrize("text", ["hello", "hello\n", '{"a": 1}\n', "[1]\n", "\x7fELF\0\0\n"])
def test_a_file_of_somebody_else_is_not_touched(tmp_path: Path, text: str) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match="line 1: expected a line that `terrazzo batch` wrote"):
        Journal(path)
    assert path.read_text() == text


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "out.jsonl"),
        pytest.raises(ValueError, match="another process is writing"),
    ):
        Journal(tmp_path / "out.jsonl")
    Journal(tmp_path / "out.jsonl").__exit__()


def test_lines_are_forced_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(batch_journal.os, "fsync", lambda file: (synced.append(file), fsync(file)))
    with Journal(tmp_path / "out.jsonl", sync_seconds=1e9) as journal:
        synced.clear()
        journal.append(ENTRY)
        assert synced == []
    assert len(synced) == 1
    with Journal(tmp_path / "out.jsonl", sync_seconds=0) as journal:
        journal.append(OTHER)
        assert len(synced) == 2


def test_half_a_character_in_an_id(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Journal(path) as journal:
        journal.append({**ENTRY, "custom_id": "\ud800"})
    with Journal(path) as journal:
        assert journal.done == {"batch_req_1": "\ud800"}
    path.read_bytes().decode()
