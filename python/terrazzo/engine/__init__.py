"""The engine: requests, continuous batching and the KV cache's pages."""

from ..sampling import derived_seed
from .engine import Engine
from .limits import SchedulerLimits
from .metrics import EngineMetrics, StepTimes, progress_line, prometheus_text, write_prometheus
from .outputs import FinishReason, RequestOutput, RequestUpdate
from .page_pool import PagePool
from .text_stream import Decoder, TextStream

__all__ = [
    "Decoder",
    "Engine",
    "EngineMetrics",
    "FinishReason",
    "PagePool",
    "RequestOutput",
    "RequestUpdate",
    "SchedulerLimits",
    "StepTimes",
    "TextStream",
    "derived_seed",
    "progress_line",
    "prometheus_text",
    "write_prometheus",
]
