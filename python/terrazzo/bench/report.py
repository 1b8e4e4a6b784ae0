"""Tables and pictures of measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_COLORS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#9c6b4e", "#a463f2")
_WIDTH, _HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 150, 40, 50


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows with the same keys, aligned, in a form that Markdown renders too."""
    if not rows:
        return ""
    names = list(rows[0])
    cells = [names, *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(names))]
    lines = [
        "| "
        + " | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def line_chart(
    title: str, x_name: str, y_name: str, lines: Mapping[str, Sequence[tuple[float, float]]]
) -> str:
    """An SVG picture of lines of (x, y) points; x is logarithmic."""
    points = [point for line in lines.values() for point in line]
    xs, top = sorted({x for x, _ in points}), _nice(max((y for _, y in points), default=1.0))
    low, high = math.log2(xs[0]), math.log2(xs[-1])

    def place(x: float, y: float) -> tuple[float, float]:
        share = (math.log2(x) - low) / (high - low) if high > low else 0.5
        width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return _LEFT + share * width, _HEIGHT - _BOTTOM - y / top * height

    parts = [_axes(title, x_name, y_name, top)]
    for x in xs:
        at, _ = place(x, 0)
        parts.append(_text(at, _HEIGHT - _BOTTOM + 16, f"{x:g}", "middle"))
    for line, color in zip(lines.values(), _cycle(len(lines)), strict=True):
        placed = [place(x, y) for x, y in sorted(line)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in placed]
    return _svg([*parts, *_legend(list(lines))])


def stacked_bars(title: str, y_name: str, bars: Mapping[str, Mapping[str, float]]) -> str:
    """An SVG picture of bars, each a stack of named parts."""
    top = _nice(max((sum(parts.values()) for parts in bars.values()), default=1.0))
    names = list(dict.fromkeys(name for parts in bars.values() for name in parts))
    colors = dict(zip(names, _cycle(len(names)), strict=True))
    width, height = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
    step = width / max(1, len(bars))
    drawn = [_axes(title, "", y_name, top)]
    for index, (label, parts) in enumerate(bars.items()):
        y = float(_HEIGHT - _BOTTOM)
        for name, value in parts.items():
            size = value / top * height
            y -= size
            drawn.append(
                f'<rect x="{_LEFT + (index + 0.15) * step:.1f}" y="{y:.1f}" '
                f'width="{0.7 * step:.1f}" height="{size:.1f}" fill="{colors[name]}"/>'
            )
        at = _LEFT + (index + 0.5) * step
        drawn.append(_text(at, _HEIGHT - _BOTTOM + 16, label, "middle"))
    return _svg([*drawn, *_legend(names)])


def _nice(value: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= value)


def _cycle(count: int) -> list[str]:
    return [_COLORS[i % len(_COLORS)] for i in range(count)]


def _axes(title: str, x_name: str, y_name: str, top: float) -> str:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = [_text(_LEFT, 20, title, "start", bold=True)]
    for i in range(5):
        y = bottom - i / 4 * (bottom - _TOP)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{right}" stroke="#ddd"/>')
        parts.append(_text(_LEFT - 6, y + 4, f"{top * i / 4:,.4g}", "end"))
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 12, x_name, "middle"))
    parts.append(_text(_LEFT - 6, _TOP - 8, y_name, "middle"))
    return "\n".join(parts)


def _legend(names: Sequence[str]) -> list[str]:
    parts = []
    for i, (name, color) in enumerate(zip(names, _cycle(len(names)), strict=True)):
        y = _TOP + 18 * i
        parts.append(
            f'<rect x="{_WIDTH - _RIGHT + 12}" y="{y}" width="10" height="10" fill="{color}"/>'
        )
        parts.append(_text(_WIDTH - _RIGHT + 28, y + 9, name, "start"))
    return parts


def _text(x: float, y: float, text: str, anchor: str, *, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{weight}>{escape(text)}</text>'


def _svg(parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="sans-serif" font-size="11">\n'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>\n{body}\n</svg>\n'
    )
