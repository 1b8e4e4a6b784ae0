"""A page with the picture and the table; needs nothing but a browser."""

from __future__ import annotations

from html import escape

from .picture import picture_svg
from .record import StepTrace
from .report import report_text

STYLE = """
body { margin: 0; background: #fbfaf7; color: #26242b;
  font-family: Inter, Helvetica, Arial, sans-serif; }
main { max-width: 1600px; margin: 0 auto; padding: 12px; }
svg { width: 100%; height: auto; }
pre { overflow-x: auto; padding: 18px 24px; font-size: 13px;
  background: #f1eee7; border-radius: 8px; }
"""


def page_html(trace: StepTrace, *, gpu: int = 0, layers: tuple[int, int] | None = None) -> str:
    """The picture of some layers above the table of the whole step."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{escape(trace.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{picture_svg(trace, gpu=gpu, layers=layers)}"
        f"<pre>{escape(report_text(trace))}</pre>\n</main>\n</body>\n</html>\n"
    )
