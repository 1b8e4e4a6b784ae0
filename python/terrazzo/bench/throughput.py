"""How long a batch of requests takes, from the first step to the last."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..engine import Engine, EngineMetrics, SchedulerLimits
from ..sampling import SamplingParams
from ..step import Runner
from .recording import RecordingRunner
from .step_shapes import RecordedStep
from .workload import Workload


@dataclass(frozen=True, slots=True)
class ThroughputResult:
    """One workload on one machine."""

    workload: Workload
    seconds: float
    busy_share: float
    peak_kv_use: float
    metrics: EngineMetrics
    shapes: Counter[RecordedStep]  # how many steps had each

    @property
    def total_tokens_per_s(self) -> float:
        total = self.workload.num_prompt_tokens + self.workload.num_output_tokens
        return total / self.seconds

    @property
    def output_tokens_per_s(self) -> float:
        return self.workload.num_output_tokens / self.seconds

    def row(self, peak_flops: float | None) -> dict[str, Any]:
        """The result's line in the table."""
        metrics = self.metrics
        return {
            "workload": self.workload.name,
            "requests": len(self.workload.prompts),
            "seconds": round(self.seconds, 3),
            "output tokens/s": round(self.output_tokens_per_s, 1),
            "total tokens/s": round(self.total_tokens_per_s, 1),
            "MFU": None if not peak_flops else round(metrics.mfu(peak_flops), 4),
            "busy": round(self.busy_share, 4),
            "steps": metrics.steps,
            "rows/step": round(metrics.computed_rows / max(1, metrics.steps), 1),
            "KV peak": round(self.peak_kv_use, 3),
            "preemptions": metrics.preemptions,
        }

    def record(self, peak_flops: float | None) -> dict[str, Any]:
        """All of it, for a JSON file."""
        times, steps = self.metrics.times, max(1, self.metrics.steps)
        return {
            **self.row(peak_flops),
            "seed": self.workload.seed,
            "prompt_tokens": self.workload.num_prompt_tokens,
            "output_tokens": self.workload.num_output_tokens,
            "computed_rows": self.metrics.computed_rows,
            "model_flops": self.metrics.model_flops,
            "ms_per_step": {
                name: round(getattr(times, name) / steps * 1e3, 4)
                for name in ("plan", "submit", "wait", "commit", "text")
            },
            "recorded_steps": [[count, *step] for step, count in sorted(self.shapes.items())],
        }


def measure_throughput(
    runner: Runner,
    workload: Workload,
    *,
    limits: SchedulerLimits | None = None,
    run_ahead: bool = True,
    prefix_reuse: bool = True,
    progress: Callable[[EngineMetrics], None] | None = None,
) -> ThroughputResult:
    """Serve the workload: greedily, every request to its full length, without a tokenizer."""
    recorder = RecordingRunner(runner)
    engine = Engine(recorder, limits=limits, run_ahead=run_ahead, prefix_reuse=prefix_reuse)
    for prompt, num_outputs in zip(workload.prompts, workload.num_outputs, strict=True):
        params = SamplingParams(max_tokens=num_outputs, ignore_eos=True)
        engine.add_request(prompt, params, stream=False)
    peak, num_outputs = 0.0, 0
    while engine.has_work():
        for update in engine.step():
            if update.output is not None:
                num_outputs += update.output.num_output_tokens
        metrics = engine.metrics()
        peak = max(peak, metrics.kv_use)
        if progress is not None:
            progress(metrics)
    if num_outputs != workload.num_output_tokens:
        raise ValueError(
            f"[bench] {workload.name}: expected {workload.num_output_tokens} output tokens, got "
            f"{num_outputs}: the context of {runner.max_model_len} tokens is too short for it"
        )
    return ThroughputResult(
        workload,
        recorder.seconds,
        recorder.busy_share(),
        peak,
        engine.metrics(),
        recorder.shapes(),
    )
