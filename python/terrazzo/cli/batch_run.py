"""Carries the lines of a batch file through the engine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..engine import progress_line, write_prometheus
from .batch_journal import Journal
from .batch_lines import BatchRequest, LineError, custom_id_of, parse_request
from .batch_results import answer_line, error_line, id_of

if TYPE_CHECKING:
    from ..engine import EngineMetrics, RequestOutput
    from ..llm import LLM

REPORT_SECONDS = 2.0
MAX_WAITING = 256  # requests that are read ahead of the engine


def lines_of(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines by number, from 1."""
    with path.open("rb") as file:
        yield from enumerate(file, start=1)


@dataclass(slots=True)
class _Pending:
    """A line whose choices are being generated."""

    number: int
    custom_id: str
    request: BatchRequest
    num_missing: int
    outputs: dict[int, RequestOutput] = field(default_factory=dict)


def answers(llm: LLM, path: Path, journal: Journal, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Output lines of all input lines that the journal lacks, in the order in which they end.

    Raises ValueError if the journal belongs to another input.
    """
    engine = llm.engine
    entries = missing(path, journal)
    pending: dict[int, tuple[_Pending, int]] = {}  # request id -> its line and choice
    is_drawn = False
    while True:
        while not is_drawn and engine.num_waiting < MAX_WAITING:
            drawn = next(entries, None)
            if drawn is None:
                is_drawn = True
                break
            number, custom_id, entry = drawn
            try:
                if isinstance(entry, LineError):
                    raise entry
                request = parse_request(entry, number, llm, seed)
                _add(llm, _Pending(number, str(custom_id), request, 0), pending)
            except LineError as error:
                yield error_line(number, custom_id, error)
        if not pending:
            return
        for update in engine.step():
            if update.output is None or update.request_id not in pending:
                continue
            line, index = pending.pop(update.request_id)
            line.outputs[index] = update.output
            line.num_missing -= 1
            if line.num_missing == 0:
                outputs = [output for _, output in sorted(line.outputs.items())]
                yield answer_line(line.number, line.custom_id, line.request, outputs, llm.tokenizer)


def _add(llm: LLM, line: _Pending, pending: dict[int, tuple[_Pending, int]]) -> None:
    added: list[int] = []
    try:
        for index, (prompt, params) in enumerate(line.request.choices):
            request_id = llm.engine.add_request(prompt, params, stream=False)
            added.append(request_id)
            pending[request_id] = (line, index)
            line.num_missing += 1
    except ValueError as error:
        for request_id in added:
            llm.engine.abort(request_id)
            del pending[request_id]
        raise LineError(str(error), is_request=True) from error


def missing(
    path: Path, journal: Journal
) -> Iterator[tuple[int, str | None, dict[str, Any] | LineError]]:
    """Number, custom_id and JSON, or what is wrong with it, of lines that have no answer yet."""
    seen: set[str] = set()
    for number, line in lines_of(path):
        if not line.strip():
            continue
        entry: Any
        try:
            entry, custom_id = custom_id_of(line)
        except LineError as error:
            entry, custom_id = error, None
        if id_of(number) in journal.done:
            if journal.done[id_of(number)] != custom_id:
                raise ValueError(
                    f"{path}, line {number}: custom_id {custom_id!r}, but the output file has an "
                    f"answer to {journal.done[id_of(number)]!r}: it belongs to another input"
                )
        elif custom_id in seen:
            yield number, custom_id, LineError("custom_id is not unique", is_request=False)
        else:
            yield number, custom_id, entry
        if custom_id is not None:
            seen.add(custom_id)


class Report:
    """The progress bar with speeds, and the Prometheus file."""

    def __init__(
        self, llm: LLM, num_lines: int, num_done: int, path: Path | None, shown: bool | None
    ) -> None:
        from tqdm import tqdm

        self._llm = llm
        self._path = path
        self._bar = tqdm(
            total=num_lines,
            initial=num_done,
            desc="batch",
            unit="line",
            disable=None if shown is None else not shown,
        )
        self._before: EngineMetrics = llm.metrics()
        self._time = time.monotonic()

    def __enter__(self) -> Report:
        return self

    def __exit__(self, *_: object) -> None:
        self._show()
        self._bar.close()

    def add(self) -> None:
        self._bar.update(1)
        if time.monotonic() - self._time >= REPORT_SECONDS:
            self._show()

    def _show(self) -> None:
        now, metrics = time.monotonic(), self._llm.metrics()
        self._bar.set_postfix_str(progress_line(metrics, self._before, now - self._time))
        if self._path is not None:
            write_prometheus(self._path, metrics)
        self._before, self._time = metrics, now
