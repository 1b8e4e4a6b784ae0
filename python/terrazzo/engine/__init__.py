"""The engine: requests, continuous batching and the KV cache's pages."""

from .block_allocator import BlockAllocator
from .engine import Engine, derived_seed
from .outputs import EngineMetrics, FinishReason, RequestOutput, RequestUpdate
from .scheduler import SchedulerLimits
from .text_stream import Decoder, TextStream

__all__ = [
    "BlockAllocator",
    "Decoder",
    "Engine",
    "EngineMetrics",
    "FinishReason",
    "RequestOutput",
    "RequestUpdate",
    "SchedulerLimits",
    "TextStream",
    "derived_seed",
]
