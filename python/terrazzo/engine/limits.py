"""What one step and the KV cache may hold."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..step import Runner


@dataclass(frozen=True, slots=True)
class SchedulerLimits:
    """What one step and the KV cache may hold; at most what the runner can do."""

    max_batch_tokens: int  # rows of a step
    max_chunk_tokens: int  # rows of one prompt in a step
    max_sequences: int
    num_pages: int

    def __post_init__(self) -> None:
        for name in (entry.name for entry in fields(self)):
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"[SchedulerLimits] {name}: expected at least 1, got {value}")

    @classmethod
    def of(cls, runner: Runner) -> SchedulerLimits:
        """All that the runner can do."""
        return cls(runner.max_tokens, runner.max_tokens, runner.max_sequences, runner.num_pages)

    def check(self, runner: Runner) -> None:
        """Raise ValueError where the runner can do less."""
        able = SchedulerLimits.of(runner)
        for name in (entry.name for entry in fields(self)):
            if getattr(self, name) > getattr(able, name):
                raise ValueError(
                    f"[SchedulerLimits] {name}: expected at most the runner's "
                    f"{getattr(able, name)}, got {getattr(self, name)}"
                )
