"""Table, picture, page and Perfetto trace of a step."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from terrazzo.trace import StepTrace, page_html, picture_svg, report_text, write_perfetto
from terrazzo.trace.record import CONSUMER, FLOPS, SENT, STORER, TENSOR_FLOPS
from terrazzo.trace.report import kind_rows, limits_ns
from terrazzo.trace.usage import spread, usage_of

SVG = "{http://www.w3.org/2000/svg}"


def test_amounts_are_spread_over_their_time() -> None:
    edges = np.array([0.0, 10.0, 20.0, 30.0])
    begin, end, amount = np.array([5.0, 20.0]), np.array([25.0, 20.0]), np.array([8.0, 3.0])
    assert spread(edges, begin, end, amount).tolist() == pytest.approx([2, 4, 2 + 3])


def test_usage_adds_up_to_the_work(trace: StepTrace) -> None:
    window = trace.window(None)
    usage = usage_of(trace, 0, window, 100)
    width_ns = (window[1] - window[0]) / 100
    for rates, role, column in (
        (usage.tensor_tflops * 1e3, CONSUMER, TENSOR_FLOPS),
        (usage.nvlink_gbps, STORER, SENT),
    ):
        assert (rates * width_ns).sum() == pytest.approx(
            trace.work(trace.role(role, 0))[:, column].sum()
        )
    on_gpu = trace.events["gpu"] == 0
    assert (usage.hbm_gbps * width_ns).sum() == pytest.approx(trace.hbm_bytes[on_gpu].sum())


def test_the_table_adds_up(trace: StepTrace) -> None:
    rows = kind_rows(trace)
    consumers = trace.role(CONSUMER)
    assert sum(row.count for row in rows) == consumers.sum()
    assert sum(row.flops for row in rows) == pytest.approx(trace.work(consumers)[:, FLOPS].sum())
    assert all(0 <= row.waiting_ns <= row.sm_ns for row in rows)
    text = report_text(trace)
    assert all(row.name in text for row in rows)
    busy = sum(row.sm_ns for row in rows)
    assert busy <= trace.step_ns * trace.num_sms * len(trace.programs) * 1.0001


def test_limits_are_below_the_step(trace: StepTrace) -> None:
    limits = limits_ns(trace)
    assert limits is not None
    assert trace.limits is not None
    flops = trace.work(trace.role(CONSUMER))[:, TENSOR_FLOPS].sum() / len(trace.programs)
    assert limits.tensor == pytest.approx(flops / (trace.limits.tensor_tflops * 1e3))
    assert limits.roofline == max(limits.tensor, limits.hbm, limits.nvlink)
    assert limits.roofline <= limits.serial <= limits.tensor + limits.hbm + limits.nvlink
    assert limits.roofline < trace.step_ns
    assert (limits.nvlink > 0) == (len(trace.programs) > 1)


def load_perfetto(trace: StepTrace, path: Path, **options: Any) -> list[dict[str, Any]]:
    write_perfetto(trace, path, **options)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt") as file:
        document = json.load(file)
    assert set(document) == {"displayTimeUnit", "otherData", "traceEvents"}
    assert document["otherData"]["title"] == trace.title
    entries: list[dict[str, Any]] = document["traceEvents"]
    return entries


def test_perfetto_entries_keep_the_format(trace: StepTrace, tmp_path: Path) -> None:
    entries = load_perfetto(trace, tmp_path / "trace.json.gz")
    named = {(e["pid"], e["tid"]) for e in entries if e["name"] == "thread_name"}
    slices = [entry for entry in entries if entry["ph"] == "X"]
    assert {entry["ph"] for entry in entries} == {"M", "X", "C"}
    assert {(entry["pid"], entry["tid"]) for entry in slices} <= named
    for entry in entries:
        assert isinstance(entry["name"], str)
        assert entry["ph"] == "M" or entry["ts"] >= 0
        assert all(isinstance(v, float) for v in entry["args"].values()) or entry["ph"] != "C"
    instructions = [entry for entry in slices if not entry["name"].startswith("waits for")]
    assert len(instructions) == len(trace.events)
    assert {"layer", "position", "waited us", "FLOPs", "bytes loaded", "bytes stored"} <= set(
        instructions[0]["args"]
    )
    waits = {e["args"]["waits for"] for e in instructions if "waits for" in e["args"]}
    assert any(text.startswith("X[") and "layer before" in text for text in waits)


def test_slices_of_a_track_do_not_overlap(trace: StepTrace, tmp_path: Path) -> None:
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for entry in load_perfetto(trace, tmp_path / "trace.json"):
        if entry["ph"] == "X" and not entry["name"].startswith("waits for"):
            span = (entry["ts"], entry["ts"] + entry["dur"])
            tracks.setdefault((entry["pid"], entry["tid"]), []).append(span)
    for spans in tracks.values():
        assert all(a[1] <= b[0] + 2e-3 for a, b in pairwise(sorted(spans)))


def test_a_window_shows_its_layers_only(trace: StepTrace, tmp_path: Path) -> None:
    entries = load_perfetto(trace, tmp_path / "window.json", layers=(1, 2))
    layers = {e["args"]["layer"] for e in entries if e["ph"] == "X" and "layer" in e["args"]}
    assert {1, 2} <= layers
    assert len([e for e in entries if e["ph"] == "X"]) < len(trace.events)
    with pytest.raises(ValueError, match="the step has 4"):
        trace.window((7, 8))


@pytest.mark.parametrize("layers", [None, (1, 1), (1, 2)])
def test_the_picture_is_complete(trace: StepTrace, layers: tuple[int, int] | None) -> None:
    root = ElementTree.fromstring(picture_svg(trace, layers=layers))
    texts = ["".join(node.itertext()) for node in root.iter(f"{SVG}text")]
    assert trace.title in texts
    for name in ("gate_up_silu", "attend_decode", "waiting", "idle", "tensor cores", "HBM"):
        assert name in texts
    assert ("NVLink out" in texts) == (len(trace.programs) > 1)
    assert {"SM 0", "SM 131"} <= set(texts)
    assert any("uncalibrated" in text for text in texts)
    paths = [node.get("d", "") for node in root.iter(f"{SVG}path")]
    assert sum(path.count("z") for path in paths) > 100
    assert "nan" not in " ".join(paths)


def test_shares_in_the_picture_add_up(trace: StepTrace) -> None:
    root = ElementTree.fromstring(picture_svg(trace))
    texts = ["".join(node.itertext()) for node in root.iter(f"{SVG}text")]
    shares = [float(text[:-1]) for text in texts if text.endswith("%") and text[:-1].count(".")]
    assert sum(shares) == pytest.approx(100, abs=1.5)


def test_the_page_needs_nothing_else(trace: StepTrace) -> None:
    page = page_html(trace, layers=(1, 2))
    assert "<svg" in page
    assert "gate_up_silu" in page
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    assert page.count("<html") == page.count("</html>") == 1
