"""A runner that notes when steps were submitted and collected, and what they held."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from ..step import Runner, StepInput, StepOutput, StepTicket
from .step_shapes import RecordedStep

if TYPE_CHECKING:
    from ..models.config import ModelConfig

# A collect that is shorter found its step done, at a moment that nobody saw.
_WAITED_SECONDS = 50e-6


@dataclass(slots=True)
class _Step:
    submit_start: float
    submit_end: float
    shape: RecordedStep
    collect_start: float = 0.0
    collect_end: float = 0.0


@dataclass(slots=True)
class RecordingRunner:
    """Passes steps on to `runner`."""

    runner: Runner
    steps: list[_Step] = field(default_factory=list)
    _open: dict[StepTicket, _Step] = field(default_factory=dict)

    @property
    def config(self) -> ModelConfig:
        return self.runner.config

    @property
    def num_pages(self) -> int:
        return self.runner.num_pages

    @property
    def page_size(self) -> int:
        return self.runner.page_size

    @property
    def max_tokens(self) -> int:
        return self.runner.max_tokens

    @property
    def max_sequences(self) -> int:
        return self.runner.max_sequences

    @property
    def max_model_len(self) -> int:
        return self.runner.max_model_len

    @property
    def max_in_flight(self) -> int:
        return self.runner.max_in_flight

    def step(self, batch: StepInput) -> StepOutput:
        return self.collect(self.submit(batch))

    def submit(self, batch: StepInput) -> StepTicket:
        start = perf_counter()
        ticket = self.runner.submit(batch)
        self._open[ticket] = _Step(start, perf_counter(), RecordedStep.of(batch))
        return ticket

    def collect(self, ticket: StepTicket) -> StepOutput:
        start = perf_counter()
        output = self.runner.collect(ticket)
        step = self._open.pop(ticket)
        step.collect_start, step.collect_end = start, perf_counter()
        self.steps.append(step)
        return output

    @property
    def seconds(self) -> float:
        """From the first submission to the end of the last step."""
        return self.steps[-1].collect_end - self.steps[0].submit_start if self.steps else 0.0

    def busy_share(self) -> float:
        """Share of `seconds` in which the machine surely worked.

        A step begins when it is submitted and the one before it is done, and is done when the
        collect that waited for it returns. Where nobody waited it may have ended at any time
        since its submission, and counts as no longer than that.
        """
        busy, done = 0.0, 0.0
        for step in self.steps:
            waited = step.collect_end - step.collect_start > _WAITED_SECONDS
            end = step.collect_end if waited else step.submit_end
            busy += max(0.0, end - max(step.submit_start, done))
            done = max(done, end)
        return busy / self.seconds if self.seconds else 0.0

    def shapes(self) -> Counter[RecordedStep]:
        """How many steps were alike."""
        return Counter(step.shape for step in self.steps)
