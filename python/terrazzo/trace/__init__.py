"""Traces of steps: what every role of every SM did when, as tables, pictures and Perfetto files."""

from .page import page_html
from .perfetto import write_perfetto
from .picture import picture_svg
from .record import StepTrace, load_trace, save_trace
from .report import report_text
from .sources import cuda_trace, host_trace, simulated_trace

__all__ = [
    "StepTrace",
    "cuda_trace",
    "host_trace",
    "load_trace",
    "page_html",
    "picture_svg",
    "report_text",
    "save_trace",
    "simulated_trace",
    "write_perfetto",
]
