"""The picture of a step: time across, SMs down, one colour a kind; below it what was used."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from .record import CONSUMER, KIND, StepTrace
from .usage import Usage, usage_of

Floats = NDArray[np.float64]

# Products in warm colours, attention in cool ones, the rest in muted ones.
COLOURS = {
    "qkv_rope_append": "#f2b134",
    "o_proj_residual": "#e2711d",
    "o_partial": "#e2711d",
    "gate_up_silu": "#c8402f",
    "down_residual": "#8f2d56",
    "down_partial": "#8f2d56",
    "lm_head": "#d98e9b",
    "attend_decode": "#1b9aaa",
    "attend_prefill": "#1f5f8b",
    "attend_merge": "#7fd1c7",
    "reduce_o": "#a3b86c",
    "reduce_residual": "#6a9c4f",
    "embed": "#9a8c98",
    "gather_norm": "#7d8597",
    "sample": "#5b5f97",
    "step_end": "#33323a",
}
INK, MUTED, PALE = "#26242b", "#77737f", "#c9c4bb"
GRID, PAPER, PANEL = "#e4e0d8", "#fbfaf7", "#f1eee7"
TENSOR, HBM, NVLINK = "#c8402f", "#1b9aaa", "#6a9c4f"
FONT = "Inter, 'Helvetica Neue', Helvetica, Arial, 'DejaVu Sans', sans-serif"

WIDTH = 1600
LEFT, PLOT = 96, 1270  # the plots' left edge and width
LEGEND = LEFT + PLOT + 28
TOP = 116  # of the SMs
SM_AREA = 528
LAYER_LANE = 9
STRIP, STRIP_GAP = 84, 26
BINS = 635  # of the usage: two pixels each


@dataclass(frozen=True, slots=True)
class _Scale:
    """Times in ns to pixels."""

    begin: float
    end: float

    def __call__(self, time: Floats) -> Floats:
        return LEFT + (time - self.begin) / (self.end - self.begin) * PLOT


def colour_of(kind: str) -> str:
    """The colour of a kind; its form for few tokens has the same."""
    return COLOURS.get(kind.partition(".")[0], MUTED)


def picture_svg(trace: StepTrace, *, gpu: int = 0, layers: tuple[int, int] | None = None) -> str:
    """One GPU's part of a step, or of some of its layers [first, last], as an SVG."""
    window = trace.window(layers)
    scale = _Scale(*map(float, window))
    usage = usage_of(trace, gpu, window, BINS)
    lanes, lanes_height = _layer_lanes(trace, gpu, scale, TOP - 26)
    row = max(1.5, min(40.0, SM_AREA / trace.num_sms))
    top = TOP + lanes_height
    bottom = top + row * trace.num_sms
    strips_top = bottom + STRIP_GAP + 14
    strips = _strips(trace, usage)
    axis = strips_top + len(strips) * (STRIP + STRIP_GAP) - STRIP_GAP
    height = axis + 66
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" font-family="{FONT}">',
        f'<rect width="100%" height="100%" fill="{PAPER}"/>',
        _text(LEFT, 46, trace.title, 27, weight=650),
        _text(LEFT, 73, _subtitle(trace, gpu, window, layers), 15, MUTED),
        *_grid(scale, top, axis),
        *lanes,
        *_sms(trace, gpu, scale, top, row),
        *_legend(trace, gpu, window, top),
    ]
    for i, strip in enumerate(strips):
        parts += _strip(strip, usage.edges_ns, scale, strips_top + i * (STRIP + STRIP_GAP))
    parts += _axis(scale, axis)
    return "\n".join([*parts, "</svg>\n"])


def _text(
    x: float,
    y: float,
    text: str,
    size: float,
    colour: str = INK,
    *,
    weight: int = 400,
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" '
        f'font-weight="{weight}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _subtitle(
    trace: StepTrace, gpu: int, window: tuple[int, int], layers: tuple[int, int] | None
) -> str:
    step = f"{trace.machine}; step {trace.step_ns * 1e-6:.2f} ms"
    gpus = len(trace.programs)
    if gpus > 1:
        step += f", GPU {gpu} of {gpus}"
    if layers is not None:
        span = (
            f"layer {layers[0]}" if layers[0] == layers[1] else f"layers {layers[0]} to {layers[1]}"
        )
        step += f"; shown: {span} of {trace.num_layers}, {(window[1] - window[0]) * 1e-6:.2f} ms"
    return step


def _layer_lanes(trace: StepTrace, gpu: int, scale: _Scale, y: float) -> tuple[list[str], float]:
    """A line for each layer from its first instruction to its last; those that overlap below each
    other. Nothing where there are too many to read."""
    events = trace.events[trace.role(CONSUMER, gpu)]
    begin = trace.work_ns[trace.role(CONSUMER, gpu)]
    spans = []
    for layer in range(trace.num_layers):
        own = events["layer"] == layer
        if own.any():
            spans.append((layer, float(begin[own].min()), float(events["end_ns"][own].max())))
    spans = [span for span in spans if span[2] > scale.begin and span[1] < scale.end]
    if not 1 <= len(spans) <= 12:
        return [], 0
    parts, ends = [], [-math.inf, -math.inf]
    for layer, first, last in spans:
        lane = 0 if first >= ends[0] else 1
        ends[lane] = max(ends[lane], last)
        left, right = (
            float(scale(np.array(max(min(t, scale.end), scale.begin)))) for t in (first, last)
        )
        at = y + 6 + lane * LAYER_LANE * 2
        parts.append(
            f'<path d="M{left:.1f} {at + 5:.1f}V{at:.1f}H{right:.1f}V{at + 5:.1f}" fill="none" '
            f'stroke="{MUTED}" stroke-width="1.2"/>'
        )
        name = f"layer {layer}"
        if right - left > 70:
            middle = (left + right) / 2
            parts.append(
                f'<rect x="{middle - 30:.1f}" y="{at - 7:.1f}" width="60" height="14" '
                f'fill="{PAPER}"/>'
            )
            parts.append(_text(middle, at + 4, name, 12, MUTED, anchor="middle"))
    return parts, LAYER_LANE * 2.0 * (1 if math.isinf(ends[1]) else 2) - LAYER_LANE


def _grid(scale: _Scale, top: float, bottom: float) -> list[str]:
    return [
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{GRID}"/>'
        for x in scale(np.array(_ticks(scale)))
    ]


def _sms(trace: StepTrace, gpu: int, scale: _Scale, top: float, row: float) -> list[str]:
    """Bars of the consumers: pale while they wait, full while they work."""
    height = row * trace.num_sms
    bar = row * (0.86 if row >= 3 else 1)
    parts = [
        f'<rect x="{LEFT}" y="{top:.1f}" width="{PLOT}" height="{height:.1f}" fill="{PANEL}" '
        'opacity="0.6"/>',
        f'<clipPath id="plot"><rect x="{LEFT}" y="0" width="{PLOT}" height="9999"/></clipPath>',
    ]
    chosen = trace.role(CONSUMER, gpu)
    chosen &= (trace.events["end_ns"] > scale.begin) & (trace.events["begin_ns"] < scale.end)
    events = trace.events[chosen]
    kinds = trace.work(chosen)[:, KIND].astype(int)
    begin = scale(events["begin_ns"].astype(float))
    work = scale(trace.work_ns[chosen])
    end = scale(events["end_ns"].astype(float))
    rows = top + events["sm"] * row
    for kind in np.unique(kinds):
        own = kinds == kind
        colour = colour_of(trace.kinds[kind])
        for left, right, opacity in ((begin, work, 0.2), (work, end, 1)):
            path = "".join(
                f"M{a:.1f} {b:.1f}h{c:.1f}v{bar:.1f}h{-c:.1f}z"
                for a, b, c in zip(left[own], rows[own], (right - left)[own], strict=True)
                if c >= 0.05
            )
            if path:
                parts.append(
                    f'<path d="{path}" fill="{colour}" opacity="{opacity}" clip-path="url(#plot)"/>'
                )
    names = {0, trace.num_sms - 1} if row < 14 else set(range(trace.num_sms))
    for sm in sorted(names):
        parts.append(
            _text(LEFT - 10, top + (sm + 0.5) * row + 4, f"SM {sm}", 12, MUTED, anchor="end")
        )
    return parts


def _legend(trace: StepTrace, gpu: int, window: tuple[int, int], top: float) -> list[str]:
    """Kinds with their shares of the SMs' time in the window."""
    chosen = trace.role(CONSUMER, gpu)
    events = trace.events[chosen]
    kinds = trace.work(chosen)[:, KIND].astype(int)
    begin = np.clip(trace.work_ns[chosen], *window)
    waiting = begin - np.clip(events["begin_ns"].astype(float), *window)
    times = np.clip(events["end_ns"].astype(float), *window) - begin
    whole = (window[1] - window[0]) * trace.num_sms
    shares: dict[tuple[str, str], float] = {}
    for kind in np.unique(kinds):
        name = trace.kinds[kind].partition(".")[0]
        key = (name, colour_of(name))
        shares[key] = shares.get(key, 0) + float(times[kinds == kind].sum()) / whole
    parts = [_text(LEGEND, top + 10, "share of the SMs' time", 13, MUTED)]
    rows = sorted(shares.items(), key=lambda item: -item[1])
    rows = [row for row in rows if row[1] >= 0.0005]
    wait = float(waiting.sum()) / whole
    rows += [
        (("waiting", "#c9c4bb"), wait),
        (("idle", PANEL), max(1 - wait - sum(shares.values()), 0.0)),
    ]
    for i, ((name, colour), share) in enumerate(rows):
        y = top + 34 + i * 25
        parts.append(
            f'<rect x="{LEGEND}" y="{y - 11:.1f}" width="14" height="14" rx="3" fill="{colour}"/>'
        )
        parts.append(_text(LEGEND + 22, y, name, 14))
        parts.append(_text(WIDTH - 26, y, f"{share:.1%}", 14, MUTED, anchor="end"))
    return parts


@dataclass(frozen=True, slots=True)
class _Strip:
    name: str
    values: Floats
    limit: float | None
    colour: str
    unit: str


def _strips(trace: StepTrace, usage: Usage) -> list[_Strip]:
    limits = trace.limits
    tensor, hbm, nvlink = (None, None, None)
    if limits is not None:
        tensor, hbm, nvlink = limits.tensor_tflops, limits.hbm_gbps, limits.nvlink_gbps
    strips = [
        _Strip("tensor cores", usage.tensor_tflops, tensor, TENSOR, "TFLOP/s"),
        _Strip("HBM", usage.hbm_gbps, hbm, HBM, "GB/s"),
    ]
    if len(trace.programs) > 1:
        strips.append(_Strip("NVLink out", usage.nvlink_gbps, nvlink, NVLINK, "GB/s"))
    return strips


def _strip(strip: _Strip, edges: Floats, scale: _Scale, top: float) -> list[str]:
    """An area of what was used, under a line for what can be had."""
    bottom = top + STRIP
    most = max(float(strip.values.max(initial=0)), strip.limit or 0, 1e-9) * 1.04
    x, y = scale(edges), bottom - strip.values / most * STRIP
    steps = "".join(f"L{a:.1f} {v:.1f}H{b:.1f}" for a, b, v in zip(x[:-1], x[1:], y, strict=True))
    mean = float(strip.values.mean())
    parts = [
        f'<rect x="{LEFT}" y="{top:.1f}" width="{PLOT}" height="{STRIP}" fill="{PANEL}" '
        'opacity="0.6"/>',
        f'<path d="M{LEFT} {bottom:.1f}{steps}V{bottom:.1f}z" fill="{strip.colour}" '
        'opacity="0.85"/>',
        _text(LEFT - 10, top + 18, strip.name, 13, anchor="end"),
        _text(LEGEND, top + 26, f"{mean:,.0f} {strip.unit}", 18, weight=600),
    ]
    if strip.limit is None:
        parts.append(_text(LEGEND, top + 48, "on average", 13, MUTED))
        return parts
    line = bottom - strip.limit / most * STRIP
    parts.append(
        f'<line x1="{LEFT}" x2="{LEFT + PLOT}" y1="{line:.1f}" y2="{line:.1f}" stroke="{INK}" '
        'stroke-width="1" stroke-dasharray="5 4" opacity="0.6"/>'
    )
    parts.append(
        _text(LEGEND, top + 48, f"{mean / strip.limit:.0%} of {strip.limit:,.0f}", 13, MUTED)
    )
    return parts


def _ticks(scale: _Scale) -> list[float]:
    """Some 8 round times within the window."""
    step = 10 ** math.floor(math.log10((scale.end - scale.begin) / 6))
    for factor in (1, 2, 5, 10):
        if (scale.end - scale.begin) / (step * factor) <= 9:
            step *= factor
            break
    count = int((scale.end - scale.begin) // step)
    return [scale.begin + i * step for i in range(count + 1)]


def _axis(scale: _Scale, y: float) -> list[str]:
    """Times from the left edge on."""
    ticks = _ticks(scale)
    in_ms = scale.end - scale.begin >= 5e6
    unit, per_unit = ("ms", 1e6) if in_ms else ("µs", 1e3)
    digits = (
        max(0, -math.floor(math.log10((ticks[1] - ticks[0]) / per_unit) + 1e-9))
        if len(ticks) > 1
        else 0
    )
    parts = []
    for x, tick in zip(scale(np.array(ticks)), ticks, strict=True):
        label = f"{(tick - scale.begin) / per_unit:,.{digits}f}"
        parts.append(_text(float(x), y + 22, label, 13, MUTED, anchor="middle"))
    parts.append(_text(LEFT + PLOT, y + 44, f"time, {unit}", 13, MUTED, anchor="end"))
    return parts
